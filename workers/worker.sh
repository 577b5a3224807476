# The part that workers in sh share: claiming, supervising, and writing the result.
#
# A worker defines `queue`, `usage` and a function `work`, and sources this file with its own
# arguments. `work` runs once for each ticket, in a process group of its own, with the ticket's
# folder as working directory, $mount and $ticket (absolute paths) set, and its output going to
# the console. Its exit status is the result; `fail "why"` ends it with status 1 and a message.
# Where the worker is root, `work` runs as the owner of the job, and this file and the worker's must be
# readable by him. It gets an environment of its own; `keep` names further variables that it needs.
# shellcheck shell=sh
# shellcheck disable=SC2154,SC2317 # the worker sets queue and usage, and calls the functions

# From here on each status is looked at where it matters.
set +e -u

# Variables of the worker that its work gets, beside PATH and those of the user: the node's. The workers
# in Rust have the same list (workers/src/task.rs).
of_the_node='LANG TZ http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY no_proxy NO_PROXY SSL_CERT_FILE
    SSL_CERT_DIR GIT_SSL_CAINFO GIT_SSL_CAPATH GIT_SSH_COMMAND GIT_EXEC_PATH SSH_AUTH_SOCK DISTCIFS_GIT_MEMORY'

# How often a result is tried, 3 s apart, while the store is full and while it is away: then the work
# is removed, and the ticket given back.
full_max=10
away_max=300
# Seconds for which a ticket is read that can't be read at first.
patience=30
# Seconds from TERM to KILL for work that was aborted, or whose time is over.
grace=10
# The file of what `fail` said: open, without a name, and another one for each ticket. Its user may keep it
# open, and write it at any time.
worker_words=/proc/self/fd/6
# The file of the result, which no user comes to.
worker_result=/proc/self/fd/8

# signal NAME GROUP: to all of a process group; dash wants a -- before it, which busybox does not know.
if kill -s 0 -- "$$" 2>/dev/null; then
    signal() { kill -s "$1" -- "-$2" 2>/dev/null; }
else
    signal() { kill -s "$1" "-$2" 2>/dev/null; }
fi

fail() {
    printf '%s: %s\n' "$queue" "$1" >&2 || true
    printf '%s\n' "$1" >"$worker_words"
    exit 1
}

# peek FILE: what a file of the ticket says. Its owner can hold it by a lease, which is status 124 then (143 of busybox), after 5 s.
peek() { LC_ALL=C timeout 5 cat "$1"; }

# away STATUS WORDS: whether what failed so can't be done just now: the store is away, or somebody holds the file.
away() {
    case "$1 $2" in
    '124 '* | '143 '* | *'Input/output error'* | *'I/O error'* | *'timed out'* | *'temporarily unavailable'*) return 0 ;;
    # This process has none left, or the tree no memory for its user.
    *'Too many open files'* | *'No file descriptors'* | *'Cannot allocate memory'* | *'Out of memory'*) return 0 ;;
    *[Bb]'usy'* | *'Interrupted system call'*) return 0 ;;
    *) return 1 ;;
    esac
}

# patiently COMMAND…: sets $said to what it says. Status 1 if it is refused, 2 if it can't be done for half a minute.
patiently() {
    begun=$(now)
    until said=$("$@" 2>&1); do
        away "$?" "$said" || return 1
        echo "${0##*/}: $said; trying again" >&2 || true
        { [ "$(now)" -lt "$((begun + patience * 100))" ] && [ -z "$stopping" ]; } || return 2
        sleep 3
    done
}

# param NAME [DEFAULT]: the value of a parameter of the ticket.
param() {
    if [ -s "$ticket/params/$1" ]; then cat "$ticket/params/$1"; else printf '%s' "${2-}"; fi
}

# inside PATH: whether it is relative and has no `..`.
inside() {
    case /$1/ in //* | */../*) return 1 ;; esac
}

# What a worker's own process does with one ticket: run `work` here, and nothing else.
if [ "${1-}" = --work ]; then
    mount=$2 ticket=$3
    cd "$ticket" || exit 1
    work
    exit
fi

# The guard, in a session of its own: reads the group that works now (0: none) from a fifo that only
# the worker holds open, and ends the last one when the worker was killed.
if [ "${1-}" = --guard ]; then
    trap '' TERM INT HUP
    group=0
    while read -r said; do group=$said; done
    [ "$group" = 0 ] || signal KILL "$group"
    exit
fi

case ${1-} in
'' | -*)
    printf 'Usage: %s MOUNT [label...] [--as USER] [--shared]\n%s\n\n' "${0##*/}" "$usage"
    echo 'Root must say --as USER: whom jobs of root run as; all others run as their owners. A worker that is'
    echo 'not root works for its own user, or with --shared for all, as its own user.'
    echo 'Ends with status 0 on TERM or INT, after the ticket at hand on USR1, and with 75 when the tree is away.'
    [ "${1-}" = --help ]
    exit
    ;;
esac

mount=$(cd "$1" && pwd) || exit 75
shift
labels='' as='' shared=''
while [ $# -gt 0 ]; do
    case $1 in
    --as=*) as=${1#--as=} ;;
    --as) as=${2-} && shift ;;
    --shared) shared=1 ;;
    *) labels="$labels $1" ;;
    esac
    shift
done
# die WHY: it can't start.
die() {
    echo "${0##*/}: $1" >&2
    exit 1
}
me=$(id -u)
if [ "$me" = 0 ]; then
    as=${as:-${DISTCIFS_AS-}}
    [ -n "$as" ] || die 'a worker that is root must be told whom jobs of root run as: --as USER (--as root if they are to be root here)'
    [ -z "$shared" ] || die '--shared is for a worker that is not root: this one works as the owner of each job'
    id -u -- "$as" >/dev/null 2>&1 || die "--as $as: this node has no user of this name"
    [ "$as" = root ] || [ "$(id -u -- "$as")" != 0 ] || die "--as $as is root by another name: say --as root"
    # By its path: busybox has a lesser one of its own.
    setpriv=/usr/bin/setpriv
    [ -x "$setpriv" ] || setpriv=setpriv
    "$setpriv" --version >/dev/null 2>&1 || die 'setpriv is missing: install util-linux'
else
    [ -z "$as" ] || die "--as $as is for a worker that is root, and this one is not"
fi
self=$(cd "$(dirname "$0")" && pwd)/${0##*/}
ticket='' worker_pid='' stopping='' finishing=''
command -v setsid >/dev/null || { echo "${0##*/}: setsid is missing: install util-linux" >&2; exit 1; }
trap 'stopping=1; [ -z "$worker_pid" ] || signal TERM "$worker_pid"' TERM INT HUP
trap 'finishing=1 interrupted=1' USR1

# new_words: an empty file for what `fail` says.
new_words() {
    words=$(mktemp) && exec 6<>"$words" && rm -f "$words"
}

private=$(mktemp -d) && mkfifo "$private/guard" && : >"$private/result" && : >"$private/told" || exit 1
# The fifo is opened for both first: so nobody waits for an end of it that died before it came to
# opening it. What is open needs no name: nothing of it stays when the worker is killed.
exec 4<>"$private/guard" 7<>"$private/told" 8<>"$private/result"
exec 5<"$private/guard"
rm -rf "$private"
setsid sh "$self" --guard <&5 4>&- 5<&- 7>&- 8>&- >/dev/null 2>&1 &
exec 5<&-

# now: hundredths of seconds, of a clock that nobody sets.
now() {
    read -r up _ </proc/uptime
    echo "${up%.*}${up#*.}"
}

# late: whether the ticket's time is over.
late() { [ -n "$limit" ] && [ "$(now)" -ge "$((claimed + limit * 100))" ]; }

# end_group PID BEGUN: TERM, and KILL when the grace is over that began then, until nothing of the
# process group is left.
end_group() {
    signal TERM "$1" || kill -s TERM "$1" 2>/dev/null
    while [ "$(now)" -lt "$(($2 + grace * 100))" ] && signal 0 "$1"; do
        sleep 0.2 2>/dev/null || sleep 1
    done
    signal KILL "$1"
}

# still_ours: whether the claim is what it was, as far as can be seen while the store is away. Without
# a result the ticket may be another's by now. What could not be read when it was claimed was ours: else
# nobody would give the ticket back.
still_ours() {
    seen=$(peek claim 2>&1) || {
        away "$?" "$seen"
        return
    }
    [ "$seen" = "${ours:=$seen}" ]
}

# watch PID: ends the group when the ticket is aborted, the claim is lost, or the ticket's time is over.
# Who was aborted holds its claim until it has ended, so that what its traps say is kept, and nothing
# begins beside it.
watch() {
    begun=''
    while still_ours; do
        if late; then
            begun=$((claimed + limit * 100))
            break
        fi
        # Held for a second at most.
        said=$(peek .wait 2>/dev/null) || { still_ours && sleep 1; }
        [ -z "$said" ] || { echo aborted >/proc/self/fd/7; break; }
    done
    end_group "$1" "${begun:-$(now)}"
}

# find_user: sets $user to whom the work is done as; status 1, and the reason in $why, if that is nobody, and 2 if it
# can't be read now.
find_user() {
    user='' why='' owner=''
    patiently peek owner
    case $? in
    0) owner=$said ;;
    2) return 2 ;;
    esac
    case $owner in
    '' | *[!0-9]*) why='the ticket does not say who owns the job: the mount is older than this worker' ;;
    "$me") [ "$me" != 0 ] || user=$as ;;
    *)
        if [ "$me" = 0 ]; then
            user=$(id -un -- "$owner" 2>/dev/null) ||
                why="the job belongs to user $owner, who has no account on this node: make one, or chown the job"
        elif [ -z "$shared" ]; then
            why="this worker runs as $(id -un), and the job belongs to user $owner: start the worker as root with --as USER, or with --shared"
        fi
        ;;
    esac
    [ "$user" != root ] || user=''
    [ -z "$why" ]
}

# turn: sets $act to what runs a command as $user, who gets what it is to write, and $of_user to the
# variables that tell of the user. Status 1 if that can't be, and 2 if it can't be now.
turn() {
    [ -n "$user" ] || {
        of_user='HOME USER LOGNAME TMPDIR'
        return 0
    }
    group=$(id -g -- "$user") && chown "$user:$group" "$worker_words" || return 1
    patiently env LC_ALL=C chown "$user:$group" claim || return
    # A home by name; names of users hold nothing that a shell looks at.
    case $user in *[!A-Za-z0-9_.-]*) home=/ ;; *) home=$(eval "echo ~$user") ;; esac
    act="$setpriv --reuid $(id -u -- "$user") --regid $group --init-groups"
}

# begin COMMAND…: becomes it, as the user, in a session of its own, with the variables that work gets and
# no others. The guard knows its group before anything is begun, and nothing that is the user's ever holds
# its fifo: what is said there gets KILL.
begin() {
    count=$#
    for name in $of_the_node $of_user ${keep-}; do
        eval "[ -z \"\${$name+x}\" ] || set -- \"\$@\" \"$name=\${$name-}\""
    done
    [ -z "$user" ] || set -- "$@" HOME="$home" USER="$user" LOGNAME="$user"
    # The command goes behind its variables.
    while [ "$count" -gt 0 ]; do
        set -- "$@" "$1"
        shift
        count=$((count - 1))
    done
    # shellcheck disable=SC2016,SC2086 # the inner shell's; a command and its options
    exec setsid sh -c 'echo "$$" >&4; exec "$@" 4>&-' sh $act env -i PATH="$PATH" "$@"
}

# supervise: runs `work` and sets $status; empty if the claim was lost.
supervise() {
    new_words || {
        status=''
        sleep 3
        return
    }
    : >/proc/self/fd/7
    act='' home='' of_user=''
    find_user && turn
    case $? in
    0) ;;
    2)
        # Another worker may be luckier: the ticket is given back.
        status=''
        return
        ;;
    *)
        why=${why:-"can't hand the ticket over to $user: is the mount one of root?"}
        echo "$queue: $why" >>console
        printf '%s\n' "$why" >"$worker_words"
        status=error
        return
        ;;
    esac
    begin sh "$self" --work "$mount" "$ticket" >>console 2>&1 3>&- 7>&- 8>&- &
    worker_pid=$!
    watch "$worker_pid" 3>&- 4>&- &
    watcher=$!
    # USR1 interrupts a wait, too.
    while
        interrupted=''
        wait "$worker_pid"
        status=$?
        [ -n "$interrupted" ] && [ "$status" -gt 128 ] && [ -z "$stopping" ]
    do :; done
    if [ -n "$stopping" ]; then
        end_group "$worker_pid" "$(now)"
        status=''
    fi
    # TERM would be lost on a watcher that has not yet let go of this shell's traps. Where the claim or
    # the time is over, or the ticket aborted, it sees that by itself, and ends what is left of the work.
    if ! still_ours; then
        status=''
    elif [ -s /proc/self/fd/7 ]; then
        status=${status:+aborted}
    elif late && [ -n "$status" ]; then
        status=failure
        echo "timed out after $limit s" >"$worker_words"
    else
        kill -s KILL "$watcher" 2>/dev/null
    fi
    wait "$watcher" 2>/dev/null
    signal KILL "$worker_pid"
    echo 0 >&4
    worker_pid=''
}

# write_result TEXT: status 0 if there is nothing more to do: the result stands, here or from elsewhere,
# or the claim is lost; 1 if the store is full, or can't take it at all, 2 if it is away, for longer than is
# waited.
write_result() {
    full=0 away=0
    printf '%s\n' "$1" >"$worker_result"
    # Unlike a shell, cp says what close said.
    until why=$(LC_ALL=C cp "$worker_result" result 2>&1); do
        case $why in
        *'No space left'* | *'quota exceeded'*)
            full=$((full + 1))
            [ "$full" -lt "$full_max" ] || return 1
            ;;
        *'File too large'*) return 1 ;;
        *'Input/output error'* | *'timed out'* | *'temporarily unavailable'* | *busy*)
            away=$((away + 1))
            [ "$away" -lt "$away_max" ] || return 2
            [ "$away" -lt "$full_max" ] || [ -z "$stopping" ] || return 2
            ;;
        *) return 0 ;;
        esac
        echo "${0##*/}: $why; trying again" >&2 || true
        sleep 3
    done
}

# finish: writes the result. Where there is no room for what the work left, that is removed: the next
# attempt would fill the store again.
finish() {
    if [ -n "$status" ]; then
        write_result "$status
$(head -c 4000 "$worker_words")"
        written=$?
        if [ "$written" -eq 1 ] && [ -n "$ours" ] && still_ours; then
            rm -rf workspace artifacts
            write_result "error
the workspace could not be stored and is lost: $why"
            written=$?
        fi
        [ "$written" -ne 0 ] || return 0
    fi
    # Root could take another's away.
    ! still_ours || rm -f claim 2>/dev/null
}

mkdir "$mount/tickets/$queue" 2>/dev/null
# `command`: a failed exec would end the shell with a status of its own.
command exec 3<>"$mount/tickets/$queue/.next" || exit 75
echo "${labels# }" >&3
while [ -z "$stopping$finishing" ]; do
    # An empty line says "nothing yet"; a failing read says that the stream is over.
    read -r id <&3 || { [ -n "$stopping$finishing" ] || exit 75; }
    [ -n "$id" ] || continue
    ticket=$mount/tickets/$queue/$id
    claimed=$(now)
    if ! patiently env LC_ALL=C ls -d "$ticket/." || ! cd "$ticket" 2>/dev/null; then
        # By its name: the tree refuses that to whoever lost the claim, root too.
        rm -f "$ticket/claim" 2>/dev/null
        continue
    fi
    ours=$(peek claim 2>/dev/null) || ours=''
    # Without knowing how long it may take nothing is begun.
    limit='' known=1
    patiently peek timeout
    case $? in
    0) limit=$said ;;
    # A ticket without it is lost, or one of a mount of before.
    1) case $said in *'No such file'* | *[Ss]'tale '*) ;; *) known='' ;; esac ;;
    2) known='' ;;
    esac
    case $limit in *[!0-9]* | ???????????*) limit='' ;; esac
    status=''
    [ -n "$stopping" ] || [ -z "$known" ] || supervise
    finish
    cd / || exit 1
done
exit 0
