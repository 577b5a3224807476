# shellcheck shell=sh
# The first process in a machine of the environment vm, with busybox, in two parts: in the initramfs it puts the
# root file system together, and from there on it runs the script. Without KVM a process that is
# started takes 15 ms, so few are.
#
# Standard output of the script, its exit status and the word TERM have a virtio port each. A status
# that is never written tells the other side that the machine failed; why is on the serial console.
# `processes`, and with a network `address`, `router` and `names`, are words of the kernel's command
# line, which it hands on as variables.

# The first process that ends takes the machine with it: that is how what must not fail is told.
set -eu

# Where all of this is: the /run of the initramfs is that of the new root as well.
place=/run/machine

export PATH=$place/bin

# How long what a script left may keep its output, tenths of a second.
drain=20

fail() {
	echo "machine: $1" >/dev/ttyS0
	reboot -f
}

# port NAME: sets $port to the device of a virtio port, which appears a moment after its driver.
port() {
	tries=500
	while [ "$tries" -gt 0 ]; do
		for folder in /sys/class/virtio-ports/*; do
			port=/dev/${folder##*/}
			read -r name <"$folder/name" || name=''
			if [ "$name" = "$1" ] && [ -e "$port" ]; then return; fi
		done
		tries=$((tries - 1))
		usleep 10000
	done
	fail "there is no port $1"
}

# load NAME…: modules; what is built in has no file.
load() {
	found=''
	for name; do
		for file in /lib/modules/*/"$name.ko"; do [ ! -e "$file" ] || found="$found $name"; done
	done
	# shellcheck disable=SC2086 # words
	[ -z "$found" ] || modprobe -a $found || fail "a module does not fit:$found"
}

# show WHAT WHERE TYPE OPTIONS: notes a mount in the new root.
show() {
	echo "$1 /new/$2 $3 $4 0 0" >>/fstab
}

# The second part.
if [ "${1-}" = go ]; then
	port out
	out=$port
	port control
	control=$port
	mkfifo "$place/out"
	# Neither of the two is ended by the TERM that they pass on.
	(trap '' TERM && exec cat "$place/out" >"$out") &
	reader=$!
	exec 9>"$place/out"
	(trap '' TERM && exec 9>&- && while read -r said; do [ "$said" != TERM ] || kill -TERM -1; done <"$control") &
	listener=$!
	trap : TERM
	group=$place/group/script
	mkdir "$group"
	echo +pids >"$place/group/cgroup.subtree_control"
	# shellcheck disable=SC2154 # a word of the command line
	echo "$processes" >"$group/pids.max" || fail 'processes have no bound'
	(
		trap - TERM
		echo 0 >"$group/cgroup.procs"
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
		HOME=/root USER=root LANG=C.UTF-8
		# It clears the environment: of all this only what start names is left.
		exec "$place/bin/setsid" "$place/bin/sh" /isolate/start
	) </dev/null >"$place/out" 2>&1 9>&- &
	script=$!
	status=0
	wait "$script" || status=$?
	while kill -0 "$script" 2>/dev/null; do
		status=0
		wait "$script" || status=$?
	done
	# What the script left; the kernel's own threads don't mind.
	for folder in /proc/[0-9]*; do
		case ${folder#/proc/} in
		1 | "$reader" | "$listener") ;;
		*) kill -9 "${folder#/proc/}" 2>/dev/null || true ;;
		esac
	done
	while read -r what count; do
		[ "$what" != oom_kill ] || [ "$count" = 0 ] || echo '[the memory of the machine was used up]' >&9
	done </proc/vmstat
	exec 9>&-
	while [ "$drain" -gt 0 ] && kill -0 "$reader" 2>/dev/null; do
		usleep 100000
		drain=$((drain - 1))
	done
	sync
	port exit
	echo "$status" >"$port"
	reboot -f
fi

printf '%s\n' 'dev /dev devtmpfs defaults 0 0' 'proc /proc proc defaults 0 0' 'sys /sys sysfs defaults 0 0' >/fstab
mount -a -T /fstab
exec 2>/dev/ttyS0
shown='workspace artifacts isolate'
: >/fstab
load virtio_pci virtio_console virtiofs
# Owners of the node's files have no ids here: set-user-id programs would make nobody of root.
mount -t virtiofs -o nosuid share /share || fail 'virtiofs does not work'
[ ! -d /share/needs ] || shown="$shown needs"
links='' folders='/dev/pts /dev/shm'
if [ -d /share/root ]; then
	load overlay
	mkdir /image /changes
	# An overlay takes no folder that is still to be mounted when it is entered.
	mount --bind /share/root /image
	mount -t tmpfs -o mode=755 changes /changes && mkdir /changes/upper /changes/work
	mount -t overlay -o lowerdir=/image,upperdir=/changes/upper,workdir=/changes/work root /new ||
		fail 'an overlay over the image does not work'
else
	mount -t tmpfs -o mode=755 root /new
	for path in /share/*; do
		name=${path##*/}
		case $name in workspace | artifacts | needs | isolate) continue ;; esac
		if [ -L "$path" ]; then
			links="$links $path"
		else
			folders="$folders /new/$name"
			show "$path" "$name" none bind
		fi
	done
	# shellcheck disable=SC2086 # words
	[ -z "$links" ] || cp -d $links /new/
fi
for name in proc sys dev run root tmp var/tmp $shown; do
	[ -d "/new/$name" ] || folders="$folders /new/$name"
done
# shellcheck disable=SC2086 # words
mkdir -p $folders
cp -d "$place"/links/* /dev/
for name in $shown; do show "/share/$name" "$name" none bind; done
show proc proc proc defaults
show sys sys sysfs defaults
show dev dev devtmpfs defaults
show pts dev/pts devpts ptmxmode=666
show shm dev/shm tmpfs mode=1777
show /run run none bind
show group "${place#/}/group" cgroup2 defaults
mount -a -T /fstab || fail 'the root can not be put together'
echo distcifs >/proc/sys/kernel/hostname
chmod 1777 /new/tmp /new/var/tmp
ip link set lo up
# shellcheck disable=SC2154 # words of the command line
if [ -n "${address-}" ]; then
	load virtio_net
	{ ip link set eth0 up && ip addr add "$address" dev eth0 && ip route add default via "$router"; } ||
		fail 'the network does not work'
	if [ -d /share/root ]; then
		# In an image this may be a link.
		rm -f /new/etc/resolv.conf
		mkdir -p /new/etc
		echo "nameserver $names" >/new/etc/resolv.conf
	fi
fi
cd /new
# What the initramfs holds stays: it is small, and what runs is in it.
mount --move . /
exec chroot . "$place/bin/sh" "$place/init" go
