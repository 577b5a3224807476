# The part that environments share. An environment is a program in workers/isolate (or a folder of
# the node's own) that execute-shell calls with `check` or `run`; doc/environments.md is the interface.
#
# It sources this file and then defines nothing but what is its own.
# shellcheck shell=sh
# shellcheck disable=SC2034 # the environments use what is set here

# The one folder that is everywhere and nobody's: in a mount namespace of its own it is ours.
stage=/mnt

# Where programs are inside: the worker's own PATH may lead to what is not shown.
inner_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# refuse WHY: ends it; the outcome of the task is error, with this reason, which stands in the console.
refuse() {
	printf '%s: %s\n' "${0##*/}" "$1" >&2
	[ -z "${ISOLATE_ERROR-}" ] || printf '%s: %s\n' "${0##*/}" "$1" >"$ISOLATE_ERROR"
	exit 1
}

# need COMMAND PACKAGE
need() {
	command -v "$1" >/dev/null || refuse "$1 is missing: install the package $2"
}

# own_mounts ARG…: goes on with these arguments in a mount namespace of its own, so that every mount
# ends with the last process.
own_mounts() {
	exec unshare --mount --propagation private -- "$0" "$@"
}

# bind FROM TO: shows a folder at a place below the stage.
bind() {
	mkdir -p "$stage/$2"
	mount --bind "$1" "$stage/$2" || refuse "can't show $1 at $stage/$2"
}

# set_stage: an empty place in which everything can be reached by anybody, with the folders that the
# script is to find. Where they come from may be closed to who runs the script.
set_stage() {
	mount -t tmpfs -o mode=755,size=64m,nosuid,nodev distcifs "$stage" || refuse "can't mount a tmpfs on $stage"
	bind "$ISOLATE_WORKSPACE" workspace
	bind "$ISOLATE_ARTIFACTS" artifacts
	bind "$ISOLATE_FILES" isolate
}

# set_root: the image at $stage/root, with changes that are thrown away.
set_root() {
	mkdir "$stage/root"
	over "$ISOLATE_SPACE" 2>/dev/null && return
	# The node's own disk may be an overlay: then changes are kept in memory.
	mkdir "$stage/changes"
	mount -t tmpfs -o mode=755 distcifs "$stage/changes" || refuse "can't mount a tmpfs on $stage/changes"
	over "$stage/changes" || refuse "can't mount an overlay over $ISOLATE_ROOT"
}

# over FOLDER: mounts the image with changes kept there.
over() {
	mkdir -p "$1/upper" "$1/work"
	chown "$ISOLATE_UID:$ISOLATE_GID" "$1/upper" "$1/work"
	mount -t overlay -o "lowerdir=$ISOLATE_ROOT,upperdir=$1/upper,workdir=$1/work" distcifs "$stage/root"
}

# helpers N: adds the processes that the environment itself has to the bound of the script's.
helpers() {
	[ -z "${ISOLATE_PIDS_MAX-}" ] || echo "$((ISOLATE_PROCESSES + $1))" >"$ISOLATE_PIDS_MAX" ||
		refuse "can't set $ISOLATE_PIDS_MAX"
}
