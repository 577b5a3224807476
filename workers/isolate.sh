# The part that environments share. An environment is a program in workers/isolate (or a folder of
# the node's own) that execute-shell calls with `check` or `run`; doc/environments.md is the interface.
#
# It sources this file and then defines nothing but what is its own.
# shellcheck shell=sh
# shellcheck disable=SC2034 # the environments use what is set here

# The one folder that is everywhere and nobody's: in a mount namespace of its own it is ours.
stage=/mnt

# Ids that an environment has, from 0.
ids=65536

# Most bytes that a container may change of its image, if its job names no limits.disk.
changes_max=8589934592

# Fewest that it begins with.
changes_min=1048576

# Folders of the node that hold programs, and what of its /etc they need to run: folders, and files
# that are copied. Nothing of it may be a secret: no settings of programs that log in
# somewhere (maven).
node_folders='/usr /bin /sbin /lib /lib32 /lib64 /libx32 /opt'
node_etc_folders='alternatives ca-certificates fonts java-* ld.so.conf.d perl pki python3* ssl/certs terminfo xml'
node_etc_files='bash.bashrc ca-certificates.conf debian_version default/locale gai.conf host.conf ld.so.cache
	ld.so.conf locale.* localtime login.defs lsb-release magic* mime.types networks nsswitch.conf os-release
	protocols rpc services shells ssl/openssl.cnf timezone'

# Where programs are inside: the worker's own PATH may lead to what is not shown.
inner_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# The closed network of a script that a stranger wrote: its own addresses, and where it asks for names. What is sent
# there is for pasta: no such address of the node's surroundings can be reached.
closed_address=10.0.2.15 closed_router=10.0.2.2 closed_names=10.0.2.3
closed_address6=fd00:d15c:1f5::15 closed_router6=fd00:d15c:1f5::2 closed_names6=fd00:d15c:1f5::3

# Addresses that are nobody's in the world: private, link-local, reserved ones, and those that stand for others (6to4,
# Teredo), and those at which the services of a cloud are (Azure, IBM). Of IPv6 what is not within closed_world6 is closed as well, with what stands for IPv4 (::ffff:0:0/96,
# 64:ff9b::/96).
closed_ranges='0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
	192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
	161.26.0.0/16 166.8.0.0/14 168.63.129.16/32'
closed_ranges6='2001::/23 2001:db8::/32 2002::/16 3fff::/20'
closed_world6=2000::/3

# Seconds that pasta may take to be ready.
closed_patience=10

# Its processes.
closed_ours=2

# refuse WHY: ends it; the outcome of the task is error, with this reason, which stands in the console.
refuse() {
	printf '%s: %s\n' "${0##*/}" "$1" >&2
	[ -z "${ISOLATE_ERROR-}" ] || printf '%s: %s\n' "${0##*/}" "$1" >"$ISOLATE_ERROR"
	exit 1
}

# set_confine: sets $confine to what begins a script inside, so that it opens nothing by a descriptor of somebody
# outside: see workers/src/shell/confine.rs.
set_confine() {
	case ${ISOLATE_CONFINE-} in
	'') refuse 'the kernel has no Landlock of Linux 5.19 or newer; execute-shell --without-landlock does without' ;;
	none) confine='' ;;
	*) confine=/isolate/$ISOLATE_CONFINE ;;
	esac
}

# need COMMAND PACKAGE
need() {
	command -v "$1" >/dev/null || refuse "$1 is missing: install the package $2"
}

# own_mounts: goes on as `staged`, in a mount namespace of its own, so that every mount ends with the
# last process. execute-shell gives root's environments one; others make it with a user namespace.
own_mounts() {
	[ -n "${ISOLATE_UID-}" ] || exec unshare --user --map-root-user --mount --propagation private -- "$0" staged
}

# link_of PATH: sets $target to where a link to a folder leads, from /.
link_of() {
	cd -P "$1" || return
	target=${PWD#/}
	cd /
}

# forget: takes our own variables away, so that they are not seen in a process inside.
forget() {
	unset ISOLATE_NAME ISOLATE_FILES ISOLATE_SPACE ISOLATE_ERROR ISOLATE_WORKSPACE ISOLATE_ARTIFACTS ISOLATE_NEEDS \
		ISOLATE_ROOT ISOLATE_NETWORK ISOLATE_MEMORY ISOLATE_DISK ISOLATE_PROCESSES ISOLATE_PIDS_MAX ISOLATE_CPUS ISOLATE_CACHE ISOLATE_SECCOMP ISOLATE_CONFINE
}

# show FROM TO [ro]: notes that a folder is to be seen at a place below the stage.
show() {
	from=$1 flags=${3-}
	case $from in
	# A table of mounts has these in octal.
	*[[:space:]\\]*) from=$(printf %s "$1" | sed -e 's/\\/\\134/g' -e 's/ /\\040/g' -e 's/\t/\\011/g') ;;
	esac
	if [ -n "$flags" ] && [ -z "${ISOLATE_UID-}" ]; then
		# In a user namespace no flag that a mount has can be taken away.
		flags=$(findmnt -n -o VFS-OPTIONS -T "$1")
		flags=ro${flags#r[ow]}
	fi
	mounts="$mounts$from $stage/$2 none bind,X-mount.mkdir${flags:+,$flags} 0 0
"
}

# begin_stage FOLDER: an empty place in which everything can be reached by anybody, with the folders
# that the script is to find, in a folder of it. Where they come from may be closed to others.
begin_stage() {
	mounts="distcifs $stage tmpfs mode=755,size=64m,nosuid,nodev 0 0
"
	show "$ISOLATE_WORKSPACE" "$1/workspace"
	show "$ISOLATE_ARTIFACTS" "$1/artifacts"
	show "$ISOLATE_FILES" "$1/isolate"
	[ -z "${ISOLATE_NEEDS-}" ] || show "$ISOLATE_NEEDS" "$1/needs"
}

# show_node_etc TO: the folders of the node's /etc; copy_node_etc TO, once they are mounted: its files.
show_node_etc() {
	cd /etc || return
	for name in $node_etc_folders; do [ ! -d "$name" ] || show "/etc/$name" "$1/$name"; done
	cd /
}
copy_node_etc() {
	cd /etc || return
	files=''
	for name in $node_etc_files; do [ ! -f "$name" ] || files="$files $name"; done
	# shellcheck disable=SC2086 # names without blanks
	cp -L --parents $files "$stage/$1"
	cd /
	# Who the users are, for programs that ask for a name.
	printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'ci:x:1000:1000:ci:/tmp:/bin/sh' \
		'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >"$stage/$1/passwd"
	printf '%s\n' root:x:0: ci:x:1000: nogroup:x:65534: >"$stage/$1/group"
}

# set_stage: mounts all that was noted, by one program.
set_stage() {
	printf %s "$mounts" >"$ISOLATE_SPACE/mounts"
	mount --all --fstab "$ISOLATE_SPACE/mounts" || refuse "can't show the script its folders"
}

# set_root: the image at $stage/root, with changes that are thrown away. They have a file system of their
# own in a file, as large as the task may have it: not even root inside fills the node's disk.
set_root() {
	mkdir "$stage/root" "$stage/changes"
	if ! changes_on_disk || ! over 2>/dev/null; then
		# No loop devices, or a node in a container: then changes are kept in memory.
		umount "$stage/changes" 2>/dev/null || true
		rm -f "$ISOLATE_SPACE/changes"
		memory_half=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo) * 512))
		[ "$changes" -le "$memory_half" ] || changes=$memory_half
		mount -t tmpfs -o "mode=755,size=$changes" distcifs "$stage/changes" ||
			refuse "can't mount a tmpfs on $stage/changes"
		over || refuse "can't mount an overlay over $ISOLATE_ROOT"
	fi
}

# changes_on_disk: sets $changes to how many bytes they may have, and mounts them from a file: what the job
# names or the usual, and never more than half of what is free. They are taken at once: what one container may
# still write is no room for the next, nor for whoever else writes to this disk.
changes_on_disk() {
	changes=$(($(stat -f -c '%a * %S' "$ISOLATE_SPACE") / 2))
	# A tmpfs of no size would have no bound.
	[ "$changes" -ge "$changes_min" ] || refuse "too little room for its changes: $changes bytes; free some of the node's disk"
	wanted=${ISOLATE_DISK:-$changes_max}
	[ "$changes" -le "$wanted" ] || changes=$wanted
	command -v mkfs.ext4 >/dev/null || return
	# In a tmpfs that would be memory, which nobody counts as this task's.
	[ "$(stat -f -c %T "$ISOLATE_SPACE")" != tmpfs ] &&
		fallocate -l "$changes" "$ISOLATE_SPACE/changes" 2>/dev/null &&
		mkfs.ext4 -q -F -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard "$ISOLATE_SPACE/changes" 2>/dev/null &&
		mount -o loop,nosuid,nodev "$ISOLATE_SPACE/changes" "$stage/changes" 2>/dev/null
}

# over: mounts the image with its changes.
over() {
	mkdir -p "$stage/changes/upper" "$stage/changes/work"
	# shellcheck disable=SC2153 # execute-shell sets it
	chown "$ISOLATE_UID:$ISOLATE_GID" "$stage/changes/upper" "$stage/changes/work"
	mount -t overlay -o "lowerdir=$ISOLATE_ROOT,upperdir=$stage/changes/upper,workdir=$stage/changes/work" distcifs \
		"$stage/root"
}

# write_hosts FILE: what a node without a network knows: itself.
write_hosts() {
	printf '%s\n' '127.0.0.1 localhost' '::1 localhost ip6-localhost ip6-loopback' '127.0.1.1 distcifs' >"$1"
}

# check_ids: whether this worker may give an environment ids of its own.
check_ids() {
	if [ -n "${ISOLATE_UID-}" ]; then
		need lxc-usernsexec lxc
		# Where newuidmap is installed root gets only ids that are noted as its own.
		in_ids true 2>/dev/null ||
			refuse "no ids for it: add the line root:$ISOLATE_UID:$ids to /etc/subuid and /etc/subgid"
	else
		unshare --user --map-root-user --mount -- true 2>/dev/null || refuse 'no user namespaces here'
	fi
}

# in_ids COMMAND…: as root of a user namespace with the ids of the environment; an ordinary user's
# environment is in one already. In the closed network, if there is one.
in_ids() {
	if [ -n "${ISOLATE_UID-}" ]; then
		${closed_by_root-} setpriv --pdeathsig KILL lxc-usernsexec -m "u:0:$ISOLATE_UID:$ids" -m "g:0:$ISOLATE_GID:$ids" -- "$@"
	else
		${closed-} "$@"
	fi
}

# as_user COMMAND…: as the user whom the environment is outside.
as_user() {
	if [ -n "${ISOLATE_UID-}" ]; then
		setpriv --reuid "$ISOLATE_UID" --regid "$ISOLATE_GID" --clear-groups "$@"
	else
		"$@"
	fi
}

# wait_for PID: waits for its end whatever signals come; its status.
wait_for() {
	ended=0
	wait "$1" || ended=$?
	while kill -0 "$1" 2>/dev/null; do
		ended=0
		wait "$1" || ended=$?
	done
	return "$ended"
}

# helpers N: adds the processes that the environment itself has to the bound of the script's.
helpers() {
	[ -z "${ISOLATE_PIDS_MAX-}" ] || echo "$((ISOLATE_PROCESSES + $1))" >"$ISOLATE_PIDS_MAX" ||
		refuse "can't set $ISOLATE_PIDS_MAX"
}

# of_node FAMILY: the node's own addresses, the networks that it has a route to, and its routers. What is the world, or
# a large part of it, is no network of it, whatever device or router it is behind.
of_node() {
	ip "$1" route show table all | while read -r first second rest; do
		to='' via=''
		case $first in
		default | unreachable | blackhole | prohibit | throw) ;;
		local | anycast) to=$second ;;
		broadcast | multicast) ;;
		nexthop) via="$second $rest" ;;
		*) to=$first ;;
		esac
		case "$second $rest" in *'via '*) via="$second $rest" ;; esac
		if [ -n "$via" ]; then
			via=${via#*via }
			via=${via#inet6 }
			via=${via#inet }
			via=${via%% *}
		fi
		for address in $to $via; do
			case $1$address in
			-?default | -4*:* | -6*.*) ;;
			-4*/[0-7] | -6*/[0-9] | -6*/1[0-5]) ;;
			*) echo "$address" ;;
			esac
		done
	done | sort -u
}

# closed_filter: what leaves the closed network, for nft. It stands in the network itself, in which the script has no
# rights: that a route is missing would hold up nobody who names a device for his packets.
closed_filter() {
	list() { printf '%s\n' "$@" | paste -s -d , -; }
	# shellcheck disable=SC2046,SC2086 # words
	cat <<-EOF
		table inet distcifs {
			set node { type ipv4_addr; flags interval; auto-merge; elements = { $(list 127.0.0.0/8 $(of_node -4)) } }
			set node6 { type ipv6_addr; flags interval; auto-merge; elements = { $(list ::1/128 $(of_node -6)) } }
			set ranges { type ipv4_addr; flags interval; auto-merge; elements = { $(list $closed_ranges) } }
			set ranges6 { type ipv6_addr; flags interval; auto-merge; elements = { $(list $closed_ranges6) } }
			chain output {
				type filter hook output priority filter; policy drop;
				oifname "lo" accept
				icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept
				ip daddr $closed_names udp dport 53 accept
				ip6 daddr $closed_names6 udp dport 53 accept
				ip daddr @node goto closed
				ip6 daddr @node6 goto closed
				ip daddr @ranges goto closed
				ip6 daddr @ranges6 goto closed
				meta nfproto ipv4 accept
				ip6 daddr $closed_world6 accept
				goto closed
			}
			chain closed {
				reject with icmpx admin-prohibited
			}
		}
	EOF
}

# close_network: makes the closed network, with pasta between it and the node's, which it needs no rights for. Sets
# $closed to the words that run a command in it as the user of the environment, $closed_pid to a process in it, and
# writes $stage/closed.conf, the resolv.conf of it.
close_network() {
	need ip iproute2
	need nft nftables
	need pasta passt
	need setpriv util-linux
	closed_filter >"$stage/closed.nft"
	# Names are asked at both addresses for which the node has a server.
	sed -n 's/^[[:space:]]*nameserver[[:space:]]\{1,\}//p' /etc/resolv.conf | while read -r server; do
		case $server in *:*) echo "nameserver $closed_names6" ;; *) echo "nameserver $closed_names" ;; esac
	done | sort -u >"$stage/closed.conf"
	# Not by as_user, which would be one more process, whose number is not theirs.
	user=''
	[ -z "${ISOLATE_UID-}" ] || user="setpriv --reuid $ISOLATE_UID --regid $ISOLATE_GID --clear-groups --"
	# shellcheck disable=SC2086 # words of ours
	$user unshare --user --map-root-user --net -- setpriv --pdeathsig KILL tail -f /dev/null \
		</dev/null >"$stage/closed.log" 2>&1 &
	closed_pid=$!
	closed="$user nsenter --preserve-credentials --user --net --target $closed_pid --"
	closed_by_root="nsenter --net --target $closed_pid --"
	left=$((closed_patience * 50))
	# It becomes that when all is done that stands before.
	until [ "$(cat "/proc/$closed_pid/comm" 2>/dev/null)" = tail ]; do
		closed_wait "$closed_pid"
	done
	# Nothing comes or goes before the filter stands.
	$closed nft -f - <"$stage/closed.nft" 2>"$stage/closed.log" ||
		refuse "no closed network: nft says $(head -n 1 "$stage/closed.log")"
	$closed ip link set lo up
	# shellcheck disable=SC2086 # words of ours
	$user setpriv --pdeathsig KILL pasta -f -q --config-net -I net0 -t none -u none -T none -U none --no-map-gw \
		-a "$closed_address" -n 24 -g "$closed_router" --dns-forward "$closed_names" \
		-a "$closed_address6" -g "$closed_router6" --dns-forward "$closed_names6" \
		"$closed_pid" </dev/null >"$stage/closed.log" 2>&1 &
	closed_pasta=$!
	until $closed ip route show default | grep -q net0 || $closed ip -6 route show default | grep -q net0; do
		closed_wait "$closed_pasta"
	done
}

# closed_wait PID: a moment more for a part of the closed network, if it lives and has time.
closed_wait() {
	if [ "$left" = 0 ] || ! kill -0 "$1" 2>/dev/null; then
		refuse "no closed network: $(grep -v syslog "$stage/closed.log" | tail -n 1)"
	fi
	left=$((left - 1))
	sleep 0.02
}

# open_network: ends what the closed network is made of.
open_network() {
	[ -z "${closed_pid-}" ] || kill -9 "$closed_pid" "$closed_pasta" 2>/dev/null || true
}

# try_closed: says `closed` if a script can have the closed network here.
try_closed() {
	if [ "${1-}" != staged ]; then
		map=''
		[ -n "${ISOLATE_UID-}" ] || map='--user --map-root-user'
		# shellcheck disable=SC2086 # options
		exec unshare $map --mount --propagation private -- "$0" closed staged
	fi
	mount -t tmpfs -o mode=755,size=1m distcifs "$stage" || refuse "can't mount a tmpfs on $stage"
	close_network
	open_network
	echo closed
	exit
}
