//! Workspaces and artifacts: ordinary POSIX files that pass from task to task unchanged.

use std::fs;

use distcifs_tests::job::shell_task;
use distcifs_tests::mount::TEST_LIMIT;
use distcifs_tests::programs::installed;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use serde_json::json;

/// Makes a folder with everything that a snapshot must keep.
const MAKE: &str = "mkdir -p d/e 'odd name' && cd d
printf 'text' > plain; printf 'x' > \"$(printf 'bad\\377name')\"; printf 'n' > 'new
line'; : > empty
chmod 0751 plain; chmod 0700 e
ln -s ../nowhere dangling; ln -s plain link; ln plain hard; ln plain e/hard2
truncate -s 50M sparse; printf 'end' | dd of=sparse bs=1 seek=40000000 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=random bs=1M count=3 2>/dev/null; mkdir -p deep/1/2/3/4/5/6/7/8; echo leaf > deep/1/2/3/4/5/6/7/8/leaf
chmod u+s random; touch -d '2001-02-03 04:05:06.789' plain; touch -h -d 1999-12-31 dangling e; touch -d '2010-10-10 10:10:10' deep/1/2 deep .";

/// "`git clone`, `make`, `tar x`, `rsync -a` in and out leave the same bytes, modes, times and
/// links"; sparse files stay sparse. The next task's claimant finds what the first left.
#[test]
fn a_workspace_passes_from_task_to_task_unchanged() {
    let mount = Mount::new();
    let reference = mount.out().join("ref").display().to_string();
    let check = format!(
        "changes=$(rsync -aHSn --checksum --delete --itemize-changes '{reference}/' d/); [ -z \"$changes\" ] || {{ echo \"$changes\"; exit 1; }}
        [ \"$(du -k d/sparse | cut -f1)\" -lt 10000 ]; [ \"$(stat -c %h d/plain)\" = 3 ]; [ d/plain -ef d/e/hard2 ]"
    );
    let copy = format!("{MAKE}\ncd ..; rsync -aHS d/ '{reference}/'");
    mount.shell_job("a", &[&copy, &check, &check]);
    let _workers = Worker::usual(&mount, 1);
    let build = mount.build("a", "", "success");
    let left =
        format!("rsync -aHSn --checksum --delete --itemize-changes '{reference}/' jobs/a/builds/{build}/workspace/d/");
    assert_eq!(mount.run(&left), "", "the build's read-only workspace");
    let written = mount.sh(&format!("echo x > jobs/a/builds/{build}/workspace/d/plain"));
    assert!(!written.ok(), "published files never change");
}

/// Further things that must arrive as they were left: no permissions at all, setuid and setgid,
/// attributes of users, long names, a deep path, times before 1970, a mapping's stores, a file that
/// was written after its name was removed.
const MAKE_ODD: &str = "mkdir w; cd w; printf secret > none; chmod 0000 none; printf s > suid; chmod 6755 suid
mkdir shut; printf in > shut/file; chmod 0000 shut; mkdir sticky; chmod 1777 sticky; mkdir setgid; chmod 2755 setgid
printf x > attr; setfattr -n user.colour -v green attr; setfattr -n user.empty attr
mkdir withattr; setfattr -n user.a -v b withattr
long=$(printf '%0250d' 7); printf l > \"$long\"; p=.; i=0; while [ $i -lt 40 ]; do p=$p/folder$i; i=$((i+1)); done; mkdir -p $p; printf deep > $p/leaf
touch -d '1960-01-02 03:04:05.123456789' attr; ln none none2; ln -s none soft; ln -s /etc/passwd absolute; ln -s .. up
exec 5<>gone; rm gone; echo still >&5; exec 5>&-; truncate -s 1G hole; printf mid | dd of=hole bs=1 seek=500000000 conv=notrunc 2>/dev/null; truncate -s 3M mapped
python3 -c 'import mmap
f=open(\"mapped\",\"r+b\"); m=mmap.mmap(f.fileno(),0); m[1000000:1000006]=b\"stored\"; m.flush(); m[2000000:2000005]=b\"dirty\"; m.close()'
cd ..";

/// The same for what is odd, with the kernel reading and writing by itself and with the daemon in
/// between; and each task changes something that the next one must see.
#[test]
fn odd_files_pass_from_task_to_task() {
    if !(installed("python3") && installed("setfattr")) {
        return;
    }
    for passthrough in ["passthrough=yes", "passthrough=no"] {
        let mount = Mount::with(&["-o", passthrough], TEST_LIMIT);
        let reference = mount.out().join("ref").display().to_string();
        let compare = |folder: &str| {
            format!(
                "changes=$(rsync -aHSXn --checksum --delete --itemize-changes '{reference}/' {folder}/); [ -z \"$changes\" ] || {{ echo \"$changes\"; exit 1; }}"
            )
        };
        let check = format!(
            "{}; [ \"$(du -k w/hole | cut -f1)\" -lt 1000 ]; [ w/none -ef w/none2 ]; ! [ -e w/gone ]
            [ \"$(getfattr --only-values -n user.colour w/attr)\" = green ]; [ \"$(stat -c %a w/shut)\" = 0 ]",
            compare("w")
        );
        let change = format!(
            "{check}
            python3 -c 'import mmap
f=open(\"w/mapped\",\"r+b\"); m=mmap.mmap(f.fileno(),0); m[1000000:1000006]=b\"SECOND\"; m.close()'
            [ \"$(tail -c +1000001 w/mapped | head -c 6)\" = SECOND ]; rsync -aHSX w/ '{reference}/'"
        );
        let copy = format!("{MAKE_ODD}\nrsync -aHSX w/ '{reference}/'");
        mount.shell_job("a", &[&copy, &check, &change, &check, &check]);
        let _workers = Worker::usual(&mount, 1);
        let build = mount.build("a", "", "success");
        // "A folder in `workspace` and `artifacts` there shows `u+rwx` beside the mode that its task left it with."
        mount.run(&format!("chmod u+rwx '{reference}/shut'"));
        mount.run(&compare(&format!("jobs/a/builds/{build}/workspace/w")));
    }
}

/// Maps a file so that it can be written, closes it, waits for OUT/go and writes through the mapping. Python's own
/// mmap would keep a descriptor open.
const MAPPER: &str = "import ctypes, os, sys, time
out, name, first, later = sys.argv[1:5]
libc = ctypes.CDLL(None, use_errno=True); libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
file = os.open(name, os.O_RDWR)
at = libc.mmap(None, 4096, 3, 1, file, 0)
assert at not in (None, ctypes.c_void_p(-1).value), ctypes.get_errno()
os.close(file)
ctypes.memmove(at, first.encode(), len(first))
os.chdir('/'); open(out + '/mapped', 'w').close()
for i in range(1200):
    if os.path.exists(out + '/go'): break
    time.sleep(0.05)
ctypes.memmove(at, later.encode(), len(later))
open(out + '/done', 'w').close()
";

/// "Nothing of it is ever published, and no other task sees it": a mapping that outlives its task and its descriptor
/// changes nothing that anybody sees, whether the kernel has the file or the daemon.
#[test]
fn a_mapping_that_outlives_its_task_is_cut_off() {
    if !installed("python3") {
        return;
    }
    for passthrough in ["passthrough=yes", "passthrough=no"] {
        let mount = Mount::with(&["-o", passthrough], TEST_LIMIT);
        let out = mount.out().display().to_string();
        fs::write(mount.out().join("map.py"), MAPPER).expect("own folder");
        let until = |name: &str| format!("while ! [ -e '{out}/{name}' ]; do sleep 0.05; done");
        let first = format!("truncate -s 1M m; : > '{out}/ready'; {}", until("mapped"));
        let second = format!(
            "[ \"$(head -c 5 m)\" = first ]; : > '{out}/go'; {}; [ \"$(head -c 5 m)\" = first ]; echo own > own",
            until("done")
        );
        let third = "[ \"$(head -c 5 m)\" = first ]; cat own";
        mount.shell_job("a", &[&first, &second, third]);
        let _workers = Worker::usual(&mount, 1);
        mount.trigger("a", "");
        wait_for("the first task", USUAL, || mount.out().join("ready").exists());
        // Not below the worker, which ends what its task leaves behind.
        let mapper = mount
            .start("cd tickets/execute-shell/a.1.0/workspace; exec python3 \"$OUT/map.py\" \"$OUT\" m first later");
        assert_eq!(mount.wait_state("a", 1), "success", "{}", mount.console("a", 1));
        mapper.finish().expect_ok();
        let build = 1;
        assert_eq!(
            mount.run(&format!("head -c 5 jobs/a/builds/{build}/workspace/m")),
            "first"
        );
    }
}

/// The same of two users: the workspace of one has the same content as that of another, who has one of its files
/// mapped since his own task. What the first runs and publishes is what was built.
#[test]
fn a_mapping_of_another_user_reaches_no_task() {
    if !installed("python3") || !nix::unistd::geteuid().is_root() {
        return;
    }
    for passthrough in ["passthrough=yes", "passthrough=no"] {
        let mount = Mount::with(&["-o", passthrough], TEST_LIMIT);
        fs::write(mount.out().join("map.py"), MAPPER).expect("own folder");
        mount.queue("q");
        for (job, owner) in [("a", 4001), ("m", 4002)] {
            mount.job_of(job, &[json!({"type": "q"}), json!({"type": "q"})]);
            std::os::unix::fs::chown(mount.path(&format!("jobs/{job}")), Some(owner), Some(owner)).unwrap();
            mount.run(&format!("chmod 755 jobs/{job}; echo on > jobs/{job}/enabled"));
        }
        let _control = Worker::start(&mount, "build-control", &[]);
        let appears = |ticket: &str| {
            wait_for(ticket, USUAL, || mount.has(&format!("tickets/q/{ticket}")));
        };
        let claim = |user: u32, ticket: &str, script: &str| {
            appears(ticket);
            mount.run(&format!(
                "u() {{ setpriv --reuid={user} --regid={user} --clear-groups dash -euc \"$1\"; }}
                expect() {{ for i in $(seq 400); do [ -e \"$OUT/$1\" ] && return; sleep 0.05; done; exit 9; }}
                cd tickets/q/{ticket}; command exec 9>claim; chown {user}:{user} claim; {script}; echo 0 > result"
            ));
        };
        mount.trigger("a", "");
        claim(
            4001,
            "a.1.0",
            "u 'echo built by alice > workspace/run.sh; chmod 755 workspace/run.sh'",
        );
        appears("a.1.1");
        mount.trigger("m", "");
        let next = "../a.1.1/workspace";
        let copy = format!(
            "u 'cp -a {next}/. workspace/; touch -r {next} workspace; chmod --reference={next} workspace'
            touch $OUT/copied; expect mapped"
        );
        let mapper = mount.start(
            "for i in $(seq 400); do [ -e \"$OUT/copied\" ] && break; sleep 0.05; done
            cd tickets/q/m.1.0/workspace; exec setpriv --reuid=4002 --regid=4002 --clear-groups \
                python3 \"$OUT/map.py\" \"$OUT\" run.sh '' 'made by mlryce'",
        );
        claim(4002, "m.1.0", &copy);
        appears("m.1.1");
        let use_it = "u 'cat workspace/run.sh'; touch $OUT/go; expect done; u 'cp workspace/run.sh artifacts/'
            u 'grep -q alice workspace/run.sh'";
        claim(4001, "a.1.1", use_it);
        mapper.finish().expect_ok();
        assert_eq!(mount.wait_state("a", 1), "success");
        for place in ["artifacts", "workspace"] {
            assert_eq!(mount.read(&format!("jobs/a/builds/1/{place}/run.sh")), "built by alice");
        }
    }
}

/// Copying out of published files into a workspace (copy_file_range), and with holes.
#[test]
fn published_files_are_copied_into_a_workspace() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount.run(
        "cd tickets/q/t; echo $$ > claim; dd if=/dev/urandom of=artifacts/big bs=1M count=20 2>/dev/null
        truncate -s 100M artifacts/sparse; printf end | dd of=artifacts/sparse bs=1 seek=50000000 conv=notrunc 2>/dev/null
        : > artifacts/empty; echo 0 > result",
    );
    mount.post("q", &json!({"id": "u"}));
    mount.run(
        "cd tickets/q/u; echo $$ > claim; cp -a ../t/artifacts/. workspace/; diff -r ../t/artifacts workspace
        [ \"$(du -k workspace/sparse | cut -f1)\" -lt 1000 ]; cp workspace/big artifacts/big; cmp workspace/big artifacts/big; echo 0 > result",
    );
    mount.run("diff -r tickets/q/t/artifacts tickets/q/u/workspace");
}

/// No symbolic link of a claimant leads the daemon anywhere: neither what it captures nor what it
/// deletes; sockets are left behind and it is said.
#[test]
fn links_and_sockets_do_not_escape() {
    let mount = Mount::new();
    let out = mount.out().display().to_string();
    fs::create_dir(mount.out().join("victim")).expect("own folder");
    fs::write(mount.out().join("victim/file"), "whole").expect("own folder");
    let first = format!(
        "ln -s '{out}/victim' d; ln -s '{out}/victim/file' f; ln -s d/file through; mkfifo p
        {}",
        if installed("python3") {
            "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'"
        } else {
            "mkfifo s"
        }
    );
    mount.shell_job(
        "a",
        &[
            &first,
            "[ -L d ] && [ -L f ] && [ -L through ] && ! [ -e p ] && ! [ -e s ]; rm -r d f through",
        ],
    );
    let _workers = Worker::usual(&mount, 1);
    let build = mount.build("a", "", "success");
    let console = mount.console("a", build);
    assert!(
        console.contains("not kept") && console.contains('p') && console.contains('s'),
        "{console}"
    );
    assert_eq!(
        fs::read_to_string(mount.out().join("victim/file")).expect("still there"),
        "whole"
    );
}

/// The same through tar, in and out.
#[test]
fn tar_in_and_out_leaves_the_same() {
    let mount = Mount::new();
    mount.run(&format!("mkdir \"$OUT/src\"; cd \"$OUT/src\"; {MAKE}"));
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount.run(
        "cd tickets/q/t; echo $$ > claim; tar -C \"$OUT/src\" -cSf - . | tar -C workspace -xf -
        tar -C workspace -cSf \"$OUT/back.tar\" .; tar -C \"$OUT/src\" -df \"$OUT/back.tar\"; echo 0 > result",
    );
    mount.run("tar -C tickets/q/t/workspace -df \"$OUT/back.tar\"");
}

/// "If the claim is lost before … the next claimant starts from the same state as the first": from
/// what the task before left, not from what the lost attempt made of it.
#[test]
fn the_next_attempt_starts_from_the_same_state() {
    let mount = Mount::new();
    let out = mount.out().display().to_string();
    let second = format!(
        "cat file >> '{out}/seen'; echo changed > file; rm -rf keep; sync
        if ! [ -e '{out}/died' ]; then : > '{out}/died'; kill -9 $PPID; sleep 30; fi"
    );
    mount.shell_job(
        "a",
        &[
            "echo original > file; mkdir keep; echo k > keep/k",
            &second,
            "[ \"$(cat file)\" = changed ]; [ ! -e keep ]",
        ],
    );
    let _workers = Worker::usual(&mount, 3);
    mount.build("a", "", "success");
    assert_eq!(
        fs::read_to_string(mount.out().join("seen")).expect("the script wrote it"),
        "original\noriginal\n"
    );
}

/// POSIX as programs use it: rename over, O_EXCL, unlinked but open, append, locks, hard links,
/// thousands of files in one folder.
#[test]
fn ordinary_programs_work_in_a_workspace() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount.run(
        "cd tickets/q/t; echo $$ > claim; cd workspace
        echo a > a; echo b > b; mv b a; [ \"$(cat a)\" = b ]
        if (set -C; : > a) 2>/dev/null; then exit 1; fi
        exec 5>gone; rm gone; echo still >&5; exec 5>&-
        echo 1 > log; echo 2 >> log; [ \"$(wc -l < log)\" = 2 ]
        flock a true
        mkdir many; i=0; while [ $i -lt 2000 ]; do : > many/$i; i=$((i+1)); done; [ \"$(ls many | wc -l)\" = 2000 ]; rm -r many
        mkdir x y; mv x y/; [ -d y/x ]; if rmdir y 2>/dev/null; then exit 1; fi; rm -r y
        ln a hard; [ a -ef hard ]; ln -s a soft; [ \"$(readlink soft)\" = a ]
        truncate -s 1M a; [ \"$(stat -c %s hard)\" = 1048576 ]
        cp --reflink=auto a copy; cmp a copy
        cd ..; echo 0 > result",
    );
    assert_eq!(
        mount.list("tickets/q/t/workspace"),
        ["a", "copy", "hard", "log", "soft"]
    );
}

/// "Folders nest 2,048 deep at most; a deeper one is ENAMETOOLONG": what could be made is stored, and the next
/// task finds it.
#[test]
fn folders_as_deep_as_can_be_made_are_stored() {
    if !installed("python3") {
        return;
    }
    let make = "python3 -c 'import errno, os
for level in range(3000):
    try: os.mkdir(\"d\")
    except OSError as e: assert (level, e.errno) == (2048, errno.ENAMETOOLONG), (level, e); break
    os.chdir(\"d\")
else: raise SystemExit(1)
open(\"leaf\", \"w\").close()'";
    let check = "[ \"$(find . -name leaf | tr -cd / | wc -c)\" = 2049 ]";
    let mount = Mount::new();
    mount.shell_job("a", &[make, check]);
    let _workers = Worker::usual(&mount, 1);
    let build = mount.trigger("a", "");
    // Some ten thousand requests, one after another.
    let state = mount.wait_state_within("a", build, 5 * USUAL);
    assert_eq!(state, "success", "{}", mount.console("a", build));
}

/// "What is not kept is refused where it is made"; "a write by anybody but root takes the set-user-id bit".
#[test]
fn what_is_not_kept_is_refused_where_it_is_made() {
    if !installed("python3") || !nix::unistd::geteuid().is_root() {
        return;
    }
    for passthrough in ["passthrough=yes", "passthrough=no"] {
        let mount = Mount::with(&["-o", passthrough], TEST_LIMIT);
        mount.queue("q");
        mount.post("q", &json!({"id": "t"}));
        mount.run(
            "cd tickets/q/t; echo $$ > claim; cd workspace; chmod 777 .
            python3 -c 'import errno, os, stat, struct
def refused(wanted, act):
    try: act()
    except OSError as e: assert e.errno == wanted, e
    else: raise AssertionError(wanted)
open(\"f\", \"w\").write(\"x\")
refused(errno.EPERM, lambda: os.mknod(\"dev\", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
refused(errno.EPERM, lambda: os.mknod(\"dev\", stat.S_IFBLK | 0o600, os.makedev(7, 0)))
acl = struct.pack(\"<I\", 2) + b\"\".join(struct.pack(\"<HHI\", tag, 7, who) for tag, who in
    [(1, 2**32 - 1), (2, 1000), (4, 2**32 - 1), (16, 2**32 - 1), (32, 2**32 - 1)])
refused(errno.EOPNOTSUPP, lambda: os.setxattr(\"f\", \"system.posix_acl_access\", acl))
refused(errno.EOPNOTSUPP, lambda: os.setxattr(\".\", \"system.posix_acl_default\", acl))
refused(errno.EOPNOTSUPP, lambda: os.setxattr(\"f\", \"trusted.a\", b\"b\"))
refused(errno.EOPNOTSUPP, lambda: os.setxattr(\"f\", \"security.capability\", struct.pack(\"<IIIII\", 0x02000001, 1, 0, 0, 0)))
def by_another(act):
    os.chmod(\"f\", 0o6777)
    child = os.fork()
    if child == 0:
        os.setgid(1000); os.setuid(1000); act(); os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return os.stat(\"f\").st_mode & 0o7777
def append(): f = os.open(\"f\", os.O_WRONLY | os.O_APPEND); os.write(f, b\"y\")
def held():
    f = os.open(\"f\", os.O_WRONLY); os.pwrite(f, b\"z\", 0)
assert by_another(lambda: open(\"f\").read()) == 0o6777
for act in [append, held, lambda: os.truncate(\"f\", 1), lambda: open(\"f\", \"w\").close()]:
    mode = by_another(act)
    assert mode == 0o777, oct(mode)
before = os.open(\"f\", os.O_RDWR)
for act in [lambda: os.write(before, b\"w\"), lambda: os.pwrite(before, b\"v\", 0), lambda: os.ftruncate(before, 1)]:
    mode = by_another(act)
    assert mode == 0o777, oct(mode)
os.chmod(\"f\", 0o6777); append()
assert os.stat(\"f\").st_mode & 0o7777 == 0o6777'
            cd ..; echo 0 > result",
        );
    }
}

/// "A file without a name (O_TMPFILE) is EOPNOTSUPP, upon which programs make one with a name."
#[test]
fn no_file_is_made_without_a_name() {
    if !installed("python3") {
        return;
    }
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount.run(
        "cd tickets/q/t; echo $$ > claim; cd workspace
        python3 -c 'import errno, os, tempfile
for _ in range(2):
    try: os.open(\".\", os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as e: assert e.errno == errno.EOPNOTSUPP, e
    else: raise AssertionError
with tempfile.TemporaryFile(dir=\".\") as f: f.write(b\"x\"); f.flush()
assert os.listdir(\".\") == []'
        cd ..; echo 0 > result",
    );
}

/// "The attributes of one file or folder have 4 KiB at most": what is taken is there in the next task.
#[test]
fn attributes_are_carried_or_refused() {
    if !installed("python3") {
        return;
    }
    let mount = Mount::new();
    let set = "python3 -c 'import errno, os
def refused(node, name, length):
    try: os.setxattr(node, name, b\"x\" * length)
    except OSError as e: assert e.errno == errno.ENOSPC, e
    else: raise AssertionError(node)
os.mkdir(\"d\"); open(\"f\", \"w\").close()
for node in [\"f\", \"d\", \".\"]:
    os.setxattr(node, \"user.a\", b\"x\" * 3000)
    refused(node, \"user.b\", 1500); refused(node, \"user.b\", 5000)
    os.setxattr(node, \"user.b\", b\"y\" * 900)'";
    let see = "python3 -c 'import os
for node in [\"f\", \"d\", \".\"]:
    assert len(os.getxattr(node, \"user.a\")) == 3000 and len(os.getxattr(node, \"user.b\")) == 900, node
os.remove(\"f\"); os.rmdir(\"d\"); os.chmod(\".\", 0o700)'";
    let bare = "python3 -c 'import os
assert os.listdir(\".\") == [] and os.stat(\".\").st_mode & 0o777 == 0o700
assert len(os.getxattr(\".\", \"user.a\")) == 3000'";
    mount.shell_job("a", &[set, see, bare]);
    let _workers = Worker::usual(&mount, 1);
    mount.build("a", "", "success");
}

/// "They can be mapped to read, shared or private. Before Linux 6.6 it is private only."
#[test]
fn consoles_and_configurations_can_be_mapped() {
    if !installed("python3") {
        return;
    }
    let mount = Mount::new();
    mount.shell_job("a", &["echo one; echo two"]);
    let _workers = Worker::usual(&mount, 1);
    mount.build("a", "", "success");
    mount.run(
        "python3 -c 'import mmap, platform
shared = tuple(map(int, platform.release().split(\"-\")[0].split(\".\")[:2])) >= (6, 6)
for name in [\"config.json\", \"builds/1/console\", \"builds/1/build.json\", \"builds/1/state\"]:
    with open(\"jobs/a/\" + name, \"rb\") as file:
        for flags in [mmap.MAP_PRIVATE] + [mmap.MAP_SHARED] * shared:
            mapped = mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ)
            assert mapped[:] == open(\"jobs/a/\" + name, \"rb\").read(), name
            mapped.close()'",
    );
}

/// `git clone` and `make` in a workspace; the next task finds everything up to date.
#[test]
fn git_clone_and_make() {
    if !(installed("git") && installed("make") && installed("gcc")) {
        return;
    }
    let mount = Mount::new();
    mount.run(
        "mkdir \"$OUT/src\"; cd \"$OUT/src\"; git init -q .; printf 'int main(void){return 0;}\\n' > a.c
        printf 'a: a.c\\n\\t$(CC) -o $@ $<\\n' > Makefile; git add .; git -c user.name=a -c user.email=a@b commit -qm first",
    );
    let source = mount.out().join("src").display().to_string();
    let first = format!(
        "git clone -q '{source}' src; cd src; [ -z \"$(git status --porcelain)\" ]; make; ./a; make | grep 'up to date'; git fsck --strict"
    );
    mount.shell_job(
        "a",
        &[
            &first,
            "cd src; [ \"$(git status --porcelain)\" = '?? a' ]; make | grep 'up to date'; ./a",
        ],
    );
    let _workers = Worker::usual(&mount, 1);
    mount.build("a", "", "success");
}

/// "Fifos, sockets and devices are not carried over; the console says so."
#[test]
fn fifos_are_left_behind_and_it_is_said() {
    let mount = Mount::new();
    mount.shell_job("a", &["mkfifo pipe; echo x > file", "[ ! -e pipe ] && [ -e file ]"]);
    let _workers = Worker::usual(&mount, 1);
    let build = mount.build("a", "", "success");
    assert!(
        mount.console("a", build).contains("pipe"),
        "{}",
        mount.console("a", build)
    );
}

/// "artifacts/: the claimant's own, writable; published with the result", not before.
#[test]
fn artifacts_are_published_with_the_result() {
    let mount = Mount::new();
    mount.job_of("a", &[shell_task("true\n")]);
    mount.trigger("a", "");
    let control = mount.claim("build-control", "a.1.control").expect("the control ticket");
    mount.post(
        "execute-shell",
        &json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0}),
    );
    let claim = mount.claim("execute-shell", "a.1.0").expect("the task's");
    fs::write(mount.path("tickets/execute-shell/a.1.0/artifacts/out.txt"), "made").expect("own");
    assert_eq!(mount.list("jobs/a/builds/1/artifacts"), Vec::<String>::new());
    mount.result("execute-shell", "a.1.0", "0").expect("the result");
    assert_eq!(mount.read("jobs/a/builds/1/artifacts/out.txt"), "made");
    drop(claim);
    mount
        .result("build-control", "a.1.control", "success")
        .expect("the end");
    drop(control);
    assert_eq!(mount.wait_state("a", 1), "success");
    assert_eq!(mount.read("jobs/a/builds/1/artifacts/out.txt"), "made");
}
