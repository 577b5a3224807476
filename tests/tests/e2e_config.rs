//! config.json: every usual way to write it, its lock, its errors.

use std::fs::{self, File};
use std::io::Write;

use distcifs_tests::programs::{installed, skipped};
use distcifs_tests::{HELLO, Mount, Sh, errno, wait_for};

/// A second configuration, told from HELLO by its script.
const OTHER: &str = r#"{"tasks":[{"type":"execute-shell","params":{"script":"echo other\n"}}]}"#;

/// The one that is written over: longer than any of the others, so that nothing of it may stay.
const LONG: &str = r#"{"tasks":[{"type":"execute-shell","params":{"script":"echo hello\n"}}],"description":"a job whose configuration has more bytes than what is written over it"}"#;

/// "vim, nano, emacs, sed -i, cp, mv, jq … > tmp && mv tmp config.json, tee and echo > all work."
fn written_by(script: &str) {
    for shell in ["dash", "bash", "busybox sh"] {
        if !installed(shell.split(' ').next().unwrap_or_default()) {
            continue;
        }
        let mount = Mount::new();
        mount.job("a", LONG);
        fs::write(mount.out().join("other.json"), OTHER).expect("own folder");
        mount
            .sh_with(shell, &format!("set -eu\ncd jobs/a\n{script}"))
            .expect_ok();
        assert!(
            mount.read("jobs/a/config.json").contains("echo other"),
            "{shell}: {script}: {}",
            mount.read("jobs/a/config.json")
        );
        assert!(
            !mount.has("jobs/a/config.error"),
            "{}",
            mount.read("jobs/a/config.error")
        );
        assert_eq!(mount.trigger("a", ""), 1);
        assert!(mount.read("jobs/a/builds/1/config.json").contains("echo other"));
    }
}

#[test]
fn written_by_echo() {
    written_by("printf '%s\\n' \"$(cat \"$OUT/other.json\")\" > config.json");
}

#[test]
fn written_by_cat() {
    written_by("cat \"$OUT/other.json\" > config.json");
}

#[test]
fn written_by_cp() {
    written_by("cp \"$OUT/other.json\" config.json");
}

#[test]
fn written_by_mv() {
    written_by("cp \"$OUT/other.json\" new && mv new config.json");
}

#[test]
fn written_by_mv_from_outside() {
    written_by("mv \"$OUT/other.json\" config.json");
}

#[test]
fn written_by_install() {
    written_by("install -m 644 \"$OUT/other.json\" config.json");
}

/// "The process that did either may make it anew within a second, with O_EXCL": and the backup is there.
#[test]
fn written_with_a_backup() {
    let kept = "grep -q 'echo hello' config.json~ && rm config.json~";
    written_by(&format!(
        "/usr/bin/env cp --backup=simple \"$OUT/other.json\" config.json; {kept}"
    ));
    written_by(&format!(
        "/usr/bin/env install -b -m 644 \"$OUT/other.json\" config.json; {kept}"
    ));
    written_by(&format!(
        "cp \"$OUT/other.json\" new; /usr/bin/env mv -b new config.json; {kept}"
    ));
    written_by(&format!("/usr/bin/env mv -b \"$OUT/other.json\" config.json; {kept}"));
    written_by(&format!("rsync -b \"$OUT/other.json\" config.json; {kept}"));
    written_by("sed -i.old 's/echo hello/echo other/' config.json; grep -q 'echo hello' config.json.old");
}

#[test]
fn written_by_rsync() {
    written_by("rsync -a \"$OUT/other.json\" config.json");
    written_by("rsync -a --inplace \"$OUT/other.json\" config.json");
}

#[test]
fn written_by_ed() {
    if installed("ed") {
        written_by("printf '%s\\n' 's/echo hello/echo other/' w q | ed config.json > /dev/null");
    }
}

#[test]
fn written_by_emacs() {
    if installed("emacs") {
        // An edit as a person makes it, with the lock file and the backup that come with it.
        let edit = "(progn (find-file \"config.json\") (while (search-forward \"echo hello\" nil t) (replace-match \"echo other\")) (save-buffer))";
        written_by(&format!("emacs -Q --batch --eval '{edit}'"));
    }
}

/// "`mv`, `cp -a`, `tar x` and `rsync -a` put another user's file in force, and the job stays whose it is": by root,
/// and by the job's owner, whose file is of another group than the job.
#[test]
fn written_with_the_file_of_another() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root has files of others");
    }
    let mount = Mount::new();
    let (owner, team, other) = (64001, 64002, 64003);
    mount.job("a", HELLO);
    mount.run(&format!(
        "chown {owner}:{team} jobs/a; chmod 2775 jobs/a; echo on > jobs/a/enabled; chmod 777 $OUT"
    ));
    let by_owner = format!("setpriv --reuid={owner} --regid={owner} --groups={owner},{team}");
    for (by, of) in [("", other), ("", 0), (&*by_owner, owner)] {
        for way in [
            "mv $OUT/x/config.json jobs/a/config.json",
            "cp -p $OUT/x/config.json jobs/a/config.json",
            "cp -a $OUT/x/config.json jobs/a/config.json",
            "rsync -a $OUT/x/config.json jobs/a/config.json",
            "rsync -a --inplace $OUT/x/config.json jobs/a/config.json",
            "tar -C $OUT/x -cf - config.json | tar -C jobs/a -xf -",
        ] {
            mount.write("jobs/a/config.json", LONG).expect("root may");
            fs::create_dir_all(mount.out().join("x")).expect("own folder");
            fs::write(mount.out().join("x/config.json"), OTHER).expect("own folder");
            mount.run(&format!("chmod 664 $OUT/x/config.json; chown -R {of}:{of} $OUT/x"));
            let done = mount.sh(&format!("{by} dash -euc '{way}'"));
            assert!(done.ok(), "{way}, a file of {of}: {done:?}");
            assert_eq!(mount.read("jobs/a/config.json"), OTHER, "{way}, a file of {of}");
            let shown = mount.run("stat -c %u:%g jobs/a jobs/a/config.json | xargs; cat jobs/a/enabled");
            assert_eq!(
                shown,
                format!("{owner}:{team} {owner}:{team}\non"),
                "{way}, a file of {of}"
            );
        }
    }
}

#[test]
fn written_by_tee() {
    written_by("tee config.json < \"$OUT/other.json\" > /dev/null");
}

#[test]
fn written_by_dd() {
    written_by("dd if=\"$OUT/other.json\" of=config.json bs=7 2> /dev/null");
}

#[test]
fn written_by_sed() {
    written_by("sed -i 's/echo hello/echo other/' config.json");
}

#[test]
fn written_by_jq() {
    if installed("jq") {
        written_by("jq '.tasks[0].params.script = \"echo other\\n\"' config.json > tmp && mv tmp config.json");
    }
}

#[test]
fn written_by_vim() {
    if installed("vim") {
        written_by("vim -es -u NONE -c '%s/echo hello/echo other/' -c wq config.json < /dev/null");
        written_by(
            "vim -es -u NONE -c 'set backup backupcopy=no' -c '%s/echo hello/echo other/' -c wq config.json < /dev/null",
        );
        written_by(
            "vim -es -u NONE -c 'set backupcopy=yes' -c '%s/echo hello/echo other/' -c wq config.json < /dev/null",
        );
    }
}

#[test]
fn written_by_nano() {
    if installed("nano") && installed("script") {
        // Replace (M-R is Esc r), answer "all", save and leave.
        let keys = r"(sleep 1; printf '\033r'; sleep 0.3; printf 'echo hello\r'; sleep 0.3; printf 'echo other\r'; sleep 0.3; printf 'a'; sleep 0.3; printf '\017\r'; sleep 0.5; printf '\030') | TERM=xterm timeout 20 script -qec 'nano -I config.json' /dev/null > /dev/null";
        written_by(keys);
    }
}

/// The same by rename, and by fsync: "fsync checks too". `cp` and `sed -i` show it as their status.
#[test]
fn a_refusal_is_seen_by_rename_and_fsync_and_cp() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    fs::write(mount.path("jobs/a/new"), "{").expect("a scratch file");
    assert_eq!(
        errno(fs::rename(mount.path("jobs/a/new"), mount.path("jobs/a/config.json"))),
        libc::EINVAL
    );
    let mut file = File::options()
        .write(true)
        .truncate(true)
        .open(mount.path("jobs/a/config.json"))
        .expect("the lock");
    file.write_all(b"{").expect("a write");
    assert_eq!(errno(file.sync_all()), libc::EINVAL);
    let closed = nix::unistd::close(file).map_err(std::io::Error::from);
    assert_eq!(errno(closed), libc::EINVAL, "emacs asks the close alone");
    assert!(
        !mount
            .sh("echo { > \"$OUT/bad\"; cp \"$OUT/bad\" jobs/a/config.json")
            .ok()
    );
    assert_eq!(mount.read("jobs/a/config.json"), HELLO);
}

/// "Truncation alone never commits."
#[test]
fn truncation_alone_changes_nothing() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.run(": > jobs/a/config.json");
    assert_eq!(mount.read("jobs/a/config.json"), HELLO);
    mount.run("truncate -s 0 jobs/a/config.json || true");
    assert_eq!(mount.read("jobs/a/config.json"), HELLO);
}

/// "The lock is dropped when the file is released": also by the death of the process.
#[test]
fn the_lock_dies_with_its_holder() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    let mut holder: Sh = mount.start("exec 3> jobs/a/config.json; echo held; exec sleep 60");
    wait_for("the holder", distcifs_tests::wait::USUAL, || {
        holder.so_far().contains("held")
    });
    holder.kill9();
    mount.configure("a", OTHER);
}

/// "Renaming config.json away leaves it in force and makes a scratch copy of it."
#[test]
fn renamed_away_it_stays_in_force() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.run("cd jobs/a; mv config.json config.json~; cmp config.json config.json~; rm config.json~");
    assert_eq!(mount.trigger("a", ""), 1);
}

/// "EFBIG: config.json over 1 MiB": promptly, and what came before the refused byte is not
/// committed, though it may be valid by itself.
#[test]
fn a_configuration_that_is_too_large_is_refused_whole() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    let padded = mount.sh(&format!(
        "{{ printf '%s' '{OTHER}'; head -c 100000000 /dev/zero | tr '\\0' ' '; }} | dd of=jobs/a/config.json bs=4096"
    ));
    assert!(!padded.ok(), "{padded:?}");
    assert_eq!(mount.read("jobs/a/config.json"), HELLO);
    assert!(mount.read("jobs/a/config.error").contains("bytes"));
    mount.configure("a", OTHER);
    assert!(!mount.has("jobs/a/config.error"));
}

/// "- is standard input. On a terminal each good one is said"; `status` without a place is that of the mount
/// at hand, and with --json one object.
#[test]
fn the_command_line_says_what_it_found() {
    let mount = Mount::new();
    let checked = mount.sh("echo '{\"tasks\": 7}' | distcifs check - || echo refused; echo '{\"tasks\": []}' | distcifs check - && echo good");
    assert_eq!(
        checked.stdout, "standard input:1:11: tasks must be a list of objects\nrefused\ngood",
        "{}",
        checked.stderr
    );
    let seen = mount.sh("echo '{\"tasks\": []}' > ../good.json; script -qec 'distcifs check ../good.json' /dev/null");
    assert_eq!(seen.stdout.trim_end(), "../good.json: ok", "{}", seen.stderr);
    let status = mount.sh("mkdir jobs/a; cd jobs/a; distcifs status --json");
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("an object");
    assert!(
        status["store"].as_str().is_some_and(|store| store.contains(' ')),
        "{status}"
    );
    // "With --json what counts is a number, all else a text."
    for key in ["pid", "nodes", "jobs", "queues", "tickets_open", "claims_held"] {
        assert!(status[key].is_u64(), "{key}: {status}");
    }
    for key in ["node", "version", "since", "room", "drained"] {
        assert!(status[key].is_string(), "{key}: {status}");
    }
    let outside = mount.sh("cd /; distcifs status || echo refused");
    assert!(
        outside.stdout.contains("refused") && outside.stderr.contains("/ is in no mount"),
        "{}",
        outside.stderr
    );
}
