#!/usr/bin/env bash
# Installs Debian packages: `ci/install.sh PACKAGE…`. A new machine has no lists of packages, or old
# ones. If an install fails, the script fetches the lists and tries again. Needs root.
exec > /dev/null 2>&1
apt-get install -y --no-install-recommends "$@" ||
    { apt-get update && apt-get install -y --no-install-recommends "$@"; }
