#!/usr/bin/env bash
# launch/debian_pages.sh [all]: pages that nobody here wrote. Unpacks three of Debian's manuals, or all twelve documentation packages,
# below runs/cache (they are read, not installed) and prints the folder.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
  "") cache=$ROOT/runs/cache/debian-pages packages=(debian-reference-en debian-faq developers-reference) ;;
  all)
    cache=$ROOT/runs/cache/debian-all
    packages=(debian-reference-en debian-faq developers-reference harden-doc git-doc postgresql-doc-15 sqlite3-doc python3.11-doc
      libreoffice-help-en-us apache2-doc gimp-help-en debian-handbook)
    ;;
  *) die "unknown argument $1; known: all" ;;
esac
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  die "these pages come through Debian's apt-get and dpkg, which are not here; name a folder of HTML instead: launch/real_pages.sh PAGES"
fi
mkdir -p "$cache" 2>/dev/null || die "$cache cannot be made; name a folder of HTML instead: launch/real_pages.sh PAGES"
for package in "${packages[@]}"; do
  if [[ -d $cache/$package ]]; then continue; fi
  rm -rf "$cache/$package.part"
  mkdir -p "$cache/$package.part/deb"
  (cd "$cache/$package.part/deb" && apt-get download -q "$package" >&2) ||
    die "apt-get download $package failed; with no package list yet: apt-get update (as root)"
  archive=("$cache/$package.part/deb/"*.deb)
  dpkg -x "${archive[0]}" "$cache/$package.part" || die "${archive[0]}: cannot be unpacked"
  rm -r "$cache/$package.part/deb"
  mv "$cache/$package.part" "$cache/$package" # whole or not at all
done
say "$cache"
