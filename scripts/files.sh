# shellcheck shell=sh
# What scripts/demo, scripts/install and scripts/package share: how the programs are built, and which
# files belong where. It is sourced from the project's root.

# built_workers: those that are built, by their sources; those in sh are the executable files beside.
built_workers() {
	for source in workers/src/bin/*; do
		basename "$source" .rs
	done
}

# build PROFILE FEATURES: builds the programs and nothing else, and says in $bin where they are.
# Without the default features: FEATURES names what more is wanted than mounts of folders and the
# workers of builds. On a terminal cargo shows how far it is.
build() {
	cargo build --profile "$1" -p distcifs -p distcifs-workers --bins --no-default-features --features "$2"
	bin=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$1
}

# features yes|no: those of a build with Ceph and ZooKeeper, or without.
features() {
	if [ "$1" = yes ]; then
		echo distcifs/ceph,distcifs/tls,distcifs/top,distcifs-workers/github,distcifs-workers/web
	else
		echo distcifs/top,distcifs-workers/github,distcifs-workers/web
	fi
}

# need_librados SCRIPT: ends where Ceph can't be built in.
need_librados() {
	[ -e /usr/include/rados/librados.h ] || {
		echo "$1: no librados-dev here: run scripts/setup --cluster, or do without Ceph" >&2
		exit 1
	}
}

# --- the files, below $root/$prefix; $bin has the programs
# shellcheck disable=SC2154 # the three are set by who sources this

# put MODE FILE TARGET: one file.
put() { install -D -m "$1" "$2" "$root/$prefix/$3"; }

# program FILE TARGET: without what only a debugger wants.
program() {
	put 755 "$1" "$2"
	! command -v strip > /dev/null || strip --strip-unneeded --remove-section=.comment "$root/$prefix/$2"
}

# zip_to TARGET: standard input, compressed, without a name or time of its own.
zip_to() {
	mkdir -p "$root/$prefix/$(dirname "$1")"
	gzip -9n > "$root/$prefix/$1"
}

programs() {
	mkdir -p "$root/$prefix/lib/distcifs"
	program "$bin/distcifs" bin/distcifs
	for name in $(built_workers); do
		program "$bin/$name" "lib/distcifs/$name"
	done
	for file in workers/*; do
		case $file in
		*/Cargo.toml | */src | */templates | */tests) ;;
		*.sh) put 644 "$file" "lib/distcifs/${file#workers/}" ;;
		*) cp -R "$file" "$root/$prefix/lib/distcifs/" ;;
		esac
	done
}

# manual ZSH: pages and completions; ZSH is the folder of zsh's. A worker's page has the name
# distcifs-WORKER, as there are other programs called cron.
manual() {
	pages=$(mktemp -d)
	"$bin/distcifs" man "$pages"
	for name in $(built_workers); do
		"$bin/$name" --man > "$pages/distcifs-$name.8"
	done
	for page in "$pages"/*; do
		zip_to "share/man/man${page##*.}/${page##*/}.gz" < "$page"
	done
	rm -r "$pages"
	for shell in bash zsh fish; do
		case $shell in
		bash) folder=share/bash-completion/completions before='' after='' ;;
		zsh) folder=$1 before=_ after='' ;;
		fish) folder=share/fish/vendor_completions.d before='' after=.fish ;;
		esac
		mkdir -p "$root/$prefix/$folder"
		"$bin/distcifs" completion "$shell" > "$root/$prefix/$folder/${before}distcifs$after"
	done
}

# documents: the pages, at the same places as in the repository, so that their links lead somewhere;
# and examples.
documents() {
	doc=share/doc/distcifs
	for page in README.md CONTRIBUTING.md SECURITY.md doc/*.md doc/decisions/*.md; do
		put 644 "$page" "$doc/$page"
	done
	for picture in doc/*.png; do
		[ ! -e "$picture" ] || put 644 "$picture" "$doc/$picture"
	done
	# Workers to copy from stand where they find worker.sh.
	mkdir -p "$root/$prefix/$doc/examples"
	ln -s ../../../../lib/distcifs/examples "$root/$prefix/$doc/examples/workers"
	for example in scripts/systemd/examples/*; do
		put 644 "$example" "$doc/examples/${example##*/}"
	done
	[ ! -d scripts/images ] || cp -R scripts/images "$root/$prefix/$doc/examples/"
}
