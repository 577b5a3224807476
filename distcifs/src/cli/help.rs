//! What `--help` and the manual say below the options, in lines that fit a terminal.

pub(super) const ROOT: &str = "\
EXAMPLES
  distcifs up /var/lib/distci /ci       a whole CI on this machine, until Ctrl-C
  distcifs mount /var/lib/distci /ci    only the mount, in the background
  mkdir /ci/jobs/hello; vi /ci/jobs/hello/config.json
  echo > /ci/jobs/hello/trigger; cat /ci/jobs/hello/builds/latest/state

WHEN SOMETHING IS WRONG
  cat /ci/jobs/hello/builds/7/why       what build 7 waits for, or how it ended
  cat /ci/jobs/hello/config.error       why the last config.json was refused
  distcifs status /ci                   whether the stores answer, what waits
  tail /var/lib/distci/log              why each refused operation was refused

NOTES
  What takes longer than two seconds shows on a terminal how far it is, by one
  line of standard error that is gone in the end. In a pipe or a file, behind
  a & and where TERM is dumb nothing is shown.

EXIT STATUS
  0  done
  1  refused or failed; standard error says why
  2  the command line is not valid";

pub(super) const MOUNT: &str = "\
OPTIONS OF -o
  allow_other[=yes|no]   other users may enter; the default for root. Others
                         need the line user_allow_other in /etc/fuse.conf
  passthrough=yes|no|SIZE the kernel reads and writes workspaces without asking,
                         if it can, while SIZE is free on their disk (2G)
  node=NAME              the name of this mount among all mounts (the host's)
  cache=DIR              where claimants' workspaces live (STATE/attempts)
  log=FILE               the log (STATE/log; standard error with -f)
  log_level=LEVEL        error, warn, info, debug or trace (info)
  control=USER[:USER]    programs that steer, by their users: they may read
                         jobs, configurations and builds, and trigger
  trash_days=DAYS        how long jobs and builds that are removed here can be
                         restored (7); 0: they are gone at once
  ro, noexec, noatime    as for any mount. Options that only mean something in
                         /etc/fstab (noauto, nofail, _netdev, user, x-...) are
                         taken and ignored. A mount is always nodev and nosuid

FOR A CLUSTER, a source of the form zk://HOST:PORT,HOST:PORT/PATH
  pool=NAME              the pool of Ceph that holds the contents (needed)
  namespace=NAME         the namespace in it (distcifs)
  ceph_conf=FILE         Ceph's configuration (where Ceph looks for it)
  ceph_user=NAME         the user of Ceph (admin)
  ceph_keyring=FILE      the user's key (where Ceph's configuration says)
  zk_auth=FILE           a line user:password for ZooKeeper
  zk_ca=FILE             certificates that sign the ZooKeeper servers':
                         encrypts the connection
  zk_cert=FILE, zk_key=FILE
                         our own certificate and its key, where servers ask
                         for them
  session_timeout=SECONDS
                         claims of a dead node are open again after it (10)
  state=DIR              where this mount keeps its log, session and workspaces
                         (/var/lib/distcifs/NODE-...,
                         ~/.local/state/distcifs/NODE-...). STATE is SOURCE
                         itself where that is a folder

EXAMPLES
  distcifs mount /var/lib/distci /ci
  distcifs mount zk://a:2181,b:2181,c:2181/distci /ci \\
                 -o pool=distci,ceph_user=distci
  distcifs mount /var/lib/distci /ci -f -o log_level=debug
  mount -t fuse.distcifs /var/lib/distci /ci
  in /etc/fstab:  /var/lib/distci  /ci  fuse.distcifs  _netdev,nofail  0  0

SIGNALS
  TERM, INT  unmount and end
  HUP        open the log anew

EXIT STATUS
  0  mounted, and it answers
  1  refused or failed; standard error says why
  2  the command line is not valid";

pub(super) const UP: &str = "\
WHO RUNS WHAT
  Started by root, each task runs as the owner of its job, those of root's jobs
  as distci or nobody (--as), and isolated scripts as nobody's ids; started by
  anybody else, all runs as him.

WHERE WORKERS ARE
  Workers are looked for in --workers-dir, or else in $DISTCIFS_WORKERS (folders
  separated by colons), the folder of the program, ../lib/distcifs and
  ../../workers from there. So are the programs of --with; their lines are cut
  at spaces, without quoting. A job with a schedule needs --with cron.

EXAMPLES
  distcifs up /var/lib/distci /ci
  distcifs up ./state ./ci --workers 8 --labels linux,x86_64,gpu
  distcifs up /var/lib/distci /ci -o log_level=debug
  distcifs up /var/lib/distci /ci --isolation lxc,vm   none runs unconfined
  distcifs up /var/lib/distci /ci --as root         root's jobs run as root here
  distcifs up /var/lib/distci /ci --with cron \\
              --with 'github-webhook --listen 127.0.0.1:8080'
  distcifs up /var/lib/distci /ci --web 127.0.0.1:8090
                                                    a page for browsers
  distcifs up /var/lib/distci /ci --with 'lint linux' --workers-dir /opt/ci
                                                    a worker of one's own

NOTES
  --web: started by root, the page shows what the modes let everybody read. For
  anybody else it shows all, to who knows the token that is made in
  ~/.local/state/distcifs/web.token: open the page once with ?token=TOKEN.
  Workers and the mount are started again when they die. What workers say
  stands on standard error, the log of the mount in SOURCE/log.

SIGNALS
  TERM, INT  give work back, unmount and end
  USR1       take no more work, finish what is worked for at most --drain-for,
             then end

EXIT STATUS
  0  ended by Ctrl-C (INT) or TERM, and unmounted
  1  refused or failed; standard error says why
  2  the command line is not valid
  3  ended after USR1 before all work was finished; standard error says what
     was left";

pub(super) const DRAIN: &str = "\
NOTES
  Before a restart: no ticket is claimed any more on this mount, whoever its
  workers are; those that are claimed are worked to their end. build-control
  goes on meanwhile and begins no build; the builds that it steers go on where
  they stand, on another mount or after the restart. The mount stays drained
  until it is unmounted, or until drain --end.

EXAMPLES
  distcifs drain /ci && systemctl restart distcifs@ci
  distcifs drain --for 0 /ci; cat /ci/.drain    begin; see what is still worked
  distcifs drain --end /ci

EXIT STATUS
  0  nothing is worked on this mount any more
  1  refused or failed; standard error says why
  2  the command line is not valid
  3  at the end of --for something is still worked; standard error says what";

pub(super) const UMOUNT: &str = "\
NOTES
  A mount that distcifs up keeps is refused, as up would mount it again: end
  that process; standard error names it. Nothing is lost by an unmount: work
  that is not finished is open again, or has ended where attempts is 1.

EXAMPLES
  distcifs umount /ci
  distcifs umount --lazy /ci    even if it is busy (a dead one always)

EXIT STATUS
  0  unmounted, and the source can be mounted again
  1  refused (busy: it says by whom) or failed
  2  the command line is not valid";

pub(super) const INIT: &str = "\
NOTES
  A folder needs no init: its first mount makes it.

EXAMPLES
  distcifs init zk://a:2181,b:2181,c:2181/distci \\
                -o pool=distci,ceph_user=distci
  distcifs init --adopt zk://a:2181/distci -o pool=distci
                                       after ZooKeeper lost its entries

EXIT STATUS
  0  the repository is there
  1  refused or failed; standard error says why
  2  the command line is not valid";

pub(super) const STATUS: &str = "\
WHAT IT SAYS OF A MOUNT, which is what its file status holds
  store, coordinator     what stands behind it
  session                whether the coordinator is there
  node, version, pid, since
                         which mount answers
  nodes, jobs, queues    how many there are
  tickets_open, tickets_claimed
                         how many wait, and how many are worked
  workers_waiting        how many have nothing to do
  claims_held            how many tickets are worked on this mount
  room                   yes, or no and why: nothing is triggered then
  drained                whether it takes no more work
  What a single build waits for is said by its file why. With --json what
  counts is a number, all else a text.

EXAMPLES
  distcifs status /ci
  cd /ci/jobs/hello && distcifs status --json | jq -r .version
  distcifs status zk://a:2181,b:2181,c:2181/distci \\
                  -o pool=distci,ceph_user=distci

EXIT STATUS
  0  both stores answer
  1  one does not; standard error says which
  2  the command line is not valid";

pub(super) const CHECK: &str = "\
EXAMPLES
  distcifs check ci/config.json && cp ci/config.json /ci/jobs/hello/config.json
  jq '.keep.days = 30' /ci/jobs/hello/config.json | distcifs check -
  distcifs check --job /ci/jobs/hello/config.json .distcifs.yaml

EXIT STATUS
  0  all files are valid
  1  one is not; each fault is a line FILE:LINE:COLUMN: WHAT
  2  the command line is not valid";

pub(super) const RUN: &str = "\
NOTES
  What a build of a server would do after its checkout is done here, on a store,
  a mount and workers of its own in a temporary folder, which is gone in the
  end. Tasks have the same environment and the same isolation, so what they need
  must be installed here. The workspace is the working copy as it is: what git
  knows, and new files that it does not ignore; without git all files. It has no
  .git. The consoles of the tasks are standard output.
  A build of which nothing runs for a minute is given up: nobody else will come.
  In a repository of which git does not speak nothing is run: what it ignores is
  not known. No link is followed; what lies below one is left out, as git does.
  The build and its files are shown to nobody else. What a run leaves that is
  killed the next one removes.

EXAMPLES
  distcifs run
  distcifs run --task unit
  distcifs run ci/nightly.yaml --param team=a --param @event=schedule
  distcifs run --job /ci/jobs/hello/config.json

SIGNALS
  TERM, INT, HUP  abort the build; a second one ends what runs always, too; a
                  third waits for nothing. Standard output that is gone aborts
                  it too

EXIT STATUS
  0    success
  1    failure; or nothing was run, and standard error says why
  2    error, of the build or of what it needs here; or the command line is not
       valid; each fault of the pipeline is a line FILE:LINE:COLUMN: WHAT
  130  aborted";

pub(super) const FSCK: &str = "\
NOTES
  It reads all that is kept, and changes nothing. The source may be mounted and
  build meanwhile: for a folder the daemon does the work, at the wish of root or
  the user who mounted. What seems wrong is looked at again ten seconds later.
  Each fault is a line on standard output: what it is, what is affected by it,
  and what to do. The folder of a backup is checked in the same way.

EXAMPLES
  distcifs fsck /var/lib/distci
  distcifs fsck /backup/distci
  distcifs fsck zk://a:2181,b:2181,c:2181/distci \\
                -o pool=distci,ceph_user=distci

EXIT STATUS
  0  nothing is wrong
  1  something is, and standard output names it; or it was refused or failed,
     and standard error says why
  2  the command line is not valid";

pub(super) const GC: &str = "\
NOTES
  The source may be mounted and build meanwhile: for a folder the daemon does
  the work, at the wish of root or the user who mounted. What was removed while
  gc runs goes the next time. gc waits for results that are being stored when it
  begins; if one of them takes longer than --wait, or a mount is stopped,
  nothing is removed. It may be killed at any moment and run again. One gc runs
  at a time. Nothing runs it by itself but the nightly timer of the package.

EXAMPLES
  distcifs gc /var/lib/distci
  distcifs gc zk://a:2181,b:2181,c:2181/distci -o pool=distci,ceph_user=distci

EXIT STATUS
  0  done
  1  refused or failed, and nothing more was removed; standard error says why
  2  the command line is not valid";

pub(super) const BACKUP: &str = "\
NOTES
  The source may be mounted and build meanwhile. What is saved is the source as
  it was at one moment soon after the beginning: every configuration, build,
  ticket, console and file. The next backup into the same folder copies only
  what is new, and removes what is not needed any more. One that was interrupted
  leaves the former one as it was; the next goes on where it stood. On one file
  system what never changes is linked and takes no room: it does not outlive the
  disk then.

EXAMPLES
  distcifs backup /var/lib/distci /backup/distci
  distcifs fsck /backup/distci      reads all of it, and names what is damaged

EXIT STATUS
  0  saved
  1  refused or failed, and the former backup is as it was; standard error says
     why
  2  the command line is not valid";

pub(super) const RESTORE: &str = "\
NOTES
  Afterwards the folder is as after the loss of its mount at the moment that was
  saved: claims are gone, and what was running begins anew when it is mounted.
  One that was interrupted goes on when it is run again.

EXAMPLES
  distcifs restore /backup/distci /var/lib/distci

EXIT STATUS
  0  restored, and everything in it is whole
  1  refused, failed or damaged; standard output names what is damaged
  2  the command line is not valid";

pub(super) const MAN: &str = "\
EXAMPLES
  distcifs man | man -l -
  distcifs man /usr/local/share/man/man1

EXIT STATUS
  0  done
  1  a page could not be written
  2  the command line is not valid";

pub(super) const COMPLETION: &str = "\
EXAMPLES
  distcifs completion bash > /etc/bash_completion.d/distcifs
  distcifs completion zsh > /usr/local/share/zsh/site-functions/_distcifs
  distcifs completion fish > ~/.config/fish/completions/distcifs.fish

EXIT STATUS
  0  done
  1  the script could not be written
  2  the command line is not valid";
