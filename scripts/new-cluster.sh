# shellcheck shell=sh
# shellcheck disable=SC2154 # dev-cluster sets them
# Makes the folder of a new cluster for scripts/dev-cluster: ports, configurations, keys, monitor map, disks.

# COUNT ports one after another that are free at the address. They are below the ports that the
# kernel gives to outgoing connections, so none takes one while its server is down for a moment.
free_ports() {
	python3 -c '
import errno, random, socket, sys
address, count = sys.argv[1], int(sys.argv[2])
first = int(open("/proc/sys/net/ipv4/ip_local_port_range").read().split()[0])
low, high = (10000, first) if first > 11000 else (32768, 61000)
for _ in range(200):
    base = random.randrange(low, high - count)
    held = []
    try:
        for port in range(base, base + count):
            held.append(socket.socket())
            held[-1].bind((address, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            continue
        sys.exit(f"dev-cluster: can not listen at {address}: {error.strerror}")
    print(*range(base, base + count))
    sys.exit()
sys.exit(f"dev-cluster: 200 times no {count} free ports at {address}")
' "$1" "$2"
}

# make_zookeeper ADDRESS PORT…: client, peer and election port of each.
make_zookeeper() {
	zk_address=$1
	shift
	members=''
	hosts=''
	for n in 1 2 3; do
		mkdir -p "$dir/zk$n/data"
		echo "$n" > "$dir/zk$n/data/myid"
		echo "clientPort=$1" > "$dir/zk$n/zoo.cfg"
		members="${members}server.$n=$zk_address:$2:$3
"
		hosts="$hosts${hosts:+,}$zk_address:$1"
		shift 3
	done
	for n in 1 2 3; do
		# Sessions from 1 s on, so that tests need not wait for long; an expiry is noticed within a
		# tick. A follower that is stopped is given up after 4 s (syncLimit), one that is killed at
		# once. All clients come from one address, so their number has no bound.
		cat >> "$dir/zk$n/zoo.cfg" <<-EOF
		clientPortAddress=$zk_address
		dataDir=$dir/zk$n/data
		tickTime=500
		initLimit=20
		syncLimit=8
		minSessionTimeout=1000
		maxSessionTimeout=60000
		maxClientCnxns=0
		quorumListenOnAllIPs=false
		autopurge.snapRetainCount=3
		autopurge.purgeInterval=1
		4lw.commands.whitelist=ruok,srvr,mntr,stat,dump,cons,wchs
		$members
		EOF
	done
	echo "distci:$(uuidgen)" > "$dir/zk.auth"
}

# write_ceph_conf ADDRESS PORT FSID
write_ceph_conf() {
	cat > "$dir/ceph.conf" <<-EOF
	[global]
	fsid = $3
	mon host = v2:$1:$2
	public addr = $1
	cluster addr = $1
	ms bind msgr1 = false
	auth cluster required = cephx
	auth service required = cephx
	auth client required = cephx
	auth allow insecure global id reclaim = false
	run dir = $dir
	crash dir = $dir/crash
	mon cluster log to file = false

	# Three copies, one on each OSD of this one machine; two are enough to go on.
	osd crush chooseleaf type = 0
	osd pool default size = 3
	osd pool default min size = 2
	osd pool default pg autoscale mode = off
	mon allow pool delete = true
	# Percent of the disk's room. At the second, 5 by default, a monitor ends by itself. One percent
	# of a large disk is still room for a cluster of tests: it never ends for this.
	mon data avail warn = 0
	mon data avail crit = -1

	# Seconds. A killed OSD is reported at once by whoever was connected to it, a stopped one after
	# the grace. Whichever is left may report it, and nothing is moved elsewhere: there is no elsewhere.
	osd heartbeat interval = 1
	osd heartbeat grace = 6
	mon tick interval = 1
	mon osd min down reporters = 1
	mon osd adjust heartbeat grace = false
	mon osd down out interval = 0
	mon warn on osd down out interval zero = false

	# Seconds that a change waits for others, and that the statistics are apart: how long up takes.
	paxos propose interval = 0.05
	mgr stats period = 1
	mgr tick period = 1
	# What nobody asks here takes most of a manager's memory and of its time to start.
	mgr disabled modules = $unused_modules

	bluestore block size = $osd_bytes
	bluestore cache autotune = false
	bluestore cache size = $osd_cache_bytes
	osd recovery sleep = 0

	# It says how its levels are every few seconds.
	debug rocksdb = 1/5

	[client.admin]
	keyring = $dir/ceph.keyring

	[client.distci]
	keyring = $dir/ceph.client.distci.keyring
	EOF
	# Not for clients: their log is not the servers'.
	for kind in mon mgr osd; do
		id=
		[ "$kind" != osd ] || id=\$id
		cat >> "$dir/ceph.conf" <<-EOF

		[$kind]
		$kind data = $dir/$kind$id
		keyring = $dir/ceph.keyring
		admin socket = $dir/$kind$id.asok
		log file =
		log to stderr = true
		EOF
	done
}

# make_ceph ADDRESS PORT
make_ceph() {
	fsid=$(uuidgen)
	write_ceph_conf "$1" "$2" "$fsid"
	mkdir "$dir/mon" "$dir/mgr" "$dir/osd0" "$dir/osd1" "$dir/osd2" "$dir/crash"
	user=$dir/ceph.client.distci.keyring
	{
		# Reading maps, and reading and writing objects (watching is writing, notifying reading).
		ceph-authtool --create-keyring "$user" --gen-key -n client.distci \
			--cap mon 'allow r' --cap osd 'allow rw pool=distci'
		ceph-authtool --create-keyring "$dir/ceph.keyring" --import-keyring "$user"
		ceph-authtool "$dir/ceph.keyring" --gen-key -n mon. --cap mon 'allow *'
		ceph-authtool "$dir/ceph.keyring" --gen-key -n client.admin \
			--cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
		ceph-authtool "$dir/ceph.keyring" --gen-key -n mgr.x \
			--cap mon 'allow profile mgr' --cap osd 'allow *'
		for id in 0 1 2; do
			ceph-authtool "$dir/ceph.keyring" --gen-key -n "osd.$id" \
				--cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
			uuidgen > "$dir/osd$id/uuid"
		done
		monmaptool --create --addv a "[v2:$1:$2]" --fsid "$fsid" "$dir/monmap"
		ceph-mon -c "$dir/ceph.conf" --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/ceph.keyring"
	} > "$dir/log/make.log" 2>&1 || die "no Ceph could be made: see $dir/log/make.log"
}

# The OSDs' stores, side by side, while the rest starts.
make_osds() {
	osd_makers=
	for id in 0 1 2; do
		timeout "$up_limit" ceph-osd -c "$dir/ceph.conf" -i "$id" --mkfs --no-mon-config \
			--osd-uuid "$(cat "$dir/osd$id/uuid")" < /dev/null >> "$dir/log/osd$id.log" 2>&1 &
		osd_makers="$osd_makers $!"
	done
}

# What a monitor must know before OSDs and clients come. One ceph does all, as each start of it
# takes a while; it says nothing by its status, so whoever waits for the OSDs and the pool finds out.
tell_mon() {
	{
		for id in 0 1 2; do
			echo "osd new $(cat "$dir/osd$id/uuid")"
		done
		echo 'osd pool create distci 32 32 replicated'
		echo 'osd pool application enable distci distci'
		# It would make a pool of its own for the health of disks.
		echo 'config set mgr mgr/devicehealth/enable_monitoring false --force'
	} | ceph_do >> "$dir/log/make.log" 2>&1 || true
}

# make PORT…: ten
make() {
	mkdir -p "$dir/log"
	mon_port=$1
	shift
	make_zookeeper "$address" "$@"
	make_ceph "$address" "$mon_port"
	make_osds
	for name in mon zk1 zk2 zk3; do
		launch "$name"
	done
	wait_serving "$up_limit" mon
	tell_mon
	for maker in $osd_makers; do
		wait "$maker" || die "no store for an OSD could be made: see $dir/log/osd*.log"
	done
	cat > "$dir/env.new" <<-EOF
	SOURCE='zk://$hosts/distci'
	OPTIONS='pool=distci,ceph_conf=$dir/ceph.conf,ceph_user=distci,ceph_keyring=$user,zk_auth=$dir/zk.auth'
	EOF
	mv "$dir/env.new" "$dir/env"
}
