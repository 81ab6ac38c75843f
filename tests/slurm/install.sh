#!/usr/bin/env bash
# SLURM for the tests: Debian's packages, where we may install them. Without them the tests of the
# cluster are skipped, and say so.
set -euo pipefail
if command -v slurmctld >/dev/null && command -v munged >/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "install: slurm-wlm and munge are missing and can't be installed here (needs root and apt-get)"
  exit 0
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurm-wlm munge
