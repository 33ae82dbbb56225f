# Sourced, with $work an empty directory: apt commands then use this machine's own sources plus their
# source packages, with package lists kept in $work. Nothing is installed, nothing outside $work changes.
chmod 755 "$work"
mkdir -p "$work"/{sources,lists/partial,cache/archives/partial}
for file in /etc/apt/sources.list.d/*.sources; do
  [ -f "$file" ] || continue
  sed 's/^Types:.*/Types: deb deb-src/' "$file" >"$work/sources/$(basename "$file")"
done
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [ -f "$file" ] || continue
  sed -n 's/^[[:space:]]*deb\(-src\)\?[[:space:]]\(.*\)/deb \2\ndeb-src \2/p' "$file" | sort -u \
    >"$work/sources/$(basename "$file")"
done
cat >"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/sources";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
CONF
export APT_CONFIG=$work/apt.conf
apt-get update -qq >"$work/update.log" 2>&1 || { tail -5 "$work/update.log" >&2; exit 1; }
