//! Every file answers sendfile and splice as it answers read: busybox's programs use them.

use distcifs_tests::job::shell_task;
use distcifs_tests::programs::{installed, skipped};
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use serde_json::json;

/// "All files answer sendfile and splice as they answer read": each program of busybox reads from each kind of
/// file what cat reads from it.
#[test]
fn busybox_reads_every_file() {
    let mount = Mount::new();
    if !mount.sh("busybox true").ok() {
        skipped("busybox");
        return;
    }
    let _workers = Worker::usual(&mount, 1);
    let mut failing = shell_task("seq 1 9000; seq 1 40000 > \"$ARTIFACTS/list\"; mkdir d; echo a > d/f; exit 3");
    (failing["name"], failing["allow_failure"]) = (json!("unit"), json!(true));
    let config = json!({"parameters": {"ref": "main"}, "tasks": [failing, {"type": "publish-artifacts", "params": {"artifacts": ["d"]}}]});
    // Programs that go by lines end the last one.
    mount.job("a", &format!("{config}\n"));
    let build = mount.trigger("a", "");
    let _copy = Worker::start(&mount, "publish-artifacts", &[]);
    assert_eq!(mount.wait_state("a", build), "success");
    mount.queue("hand");
    mount.post("hand", &json!({"id": "x", "params": {"list": ["a", "b"]}}));
    let said = mount.run(
        r#"mkdir "$OUT/busybox"
        for file in $(find . -type f ! -path './nodes/*' ! -name status ! -name metrics ! -name trigger ! -name ctl) \
            jobs/a/builds/1/.wait .drain; do
            cat "$file" > "$OUT/busybox/whole"
            for program in 'cat $file' 'cat < $file' 'dd bs=64k if=$file' 'sed -n p $file' 'head -n 99999 $file' \
                'tail -n +1 $file' 'tail -c 9999999 $file' 'grep -a ^ $file' 'awk 1 $file'; do
                eval "busybox $program" 2> "$OUT/busybox/why" | cat > "$OUT/busybox/part"
                cmp -s "$OUT/busybox/whole" "$OUT/busybox/part" || echo "$program, $file: $(head -n 1 "$OUT/busybox/why")"
            done
            busybox cp "$file" "$OUT/busybox/part" && cmp "$OUT/busybox/whole" "$OUT/busybox/part" || echo "cp $file"
            [ "$(busybox md5sum < "$file")" = "$(md5sum < "$file")" ] || echo "md5sum $file"
            [ "$(busybox wc -c < "$file")" -eq "$(wc -c < "$OUT/busybox/whole")" ] || echo "wc $file"
        done
        echo all done"#,
    );
    assert_eq!(said.trim(), "all done");
}

/// What python reads from a stream by each call that can: read, sendfile and splice.
const BY_EACH_CALL: &str = r#"
import errno, os
r, w = os.pipe()
def through(moved): return os.read(r, moved) if moved else b''
calls = {
    'read': lambda file: os.read(file, 4096),
    'sendfile': lambda file: through(os.sendfile(w, file, None, 4096)),
    'splice': lambda file: through(os.splice(file, w, 4096)),
}
if not hasattr(os, 'splice'): del calls['splice']
def take(call, flags, file):
    try: return calls[call](file)
    except OSError as error:
        # Upon which programs read.
        assert error.errno == errno.EINVAL and not flags & os.O_DIRECT, (call, flags, error)
        return os.read(file, 4096)
def line(call, flags, file, wanted=''):
    text = ''
    while not (text.strip() and wanted in text and text.endswith('\n')):
        more = take(call, flags, file)
        assert more, (call, flags, text)
        text += more.decode()
    return text.strip()
for call in calls:
    for flags in 0, os.O_DIRECT:
        events = os.open('.events', os.O_RDONLY | flags)
        post = os.open('tickets/hand/.post', os.O_RDWR | flags)
        os.write(post, b'{}\n')
        posted = line(call, flags, post)
        line(call, flags, events, f'ticket hand/{posted} open\n')
        asked = os.open('tickets/hand/.next', os.O_RDWR | flags)
        os.write(asked, b'\n')
        assert line(call, flags, asked) == posted, (call, flags)
        result = open(f'tickets/hand/{posted}/result', 'w')
        print(0, file=result); result.close()
        for file in events, post, asked: os.close(file)
print('all done')
"#;

/// "Where the kernel splices them they answer as read does: opened with O_DIRECT. Else they refuse it (EINVAL)".
#[test]
fn streams_answer_each_call_as_read_does() {
    if !installed("python3") {
        return;
    }
    let mount = Mount::new();
    mount.queue("hand");
    std::fs::write(mount.out().join("calls.py"), BY_EACH_CALL).unwrap();
    assert_eq!(mount.run("python3 \"$OUT/calls.py\"").trim(), "all done");
}

/// Line after line into a pipe, which is where busybox's cat uses sendfile.
#[test]
fn busybox_cat_follows_streams() {
    let mount = Mount::new();
    if !mount.sh("busybox true").ok() {
        skipped("busybox");
        return;
    }
    mount.queue("hand");
    let listener = mount.start("busybox cat .events | cat");
    let posted = || mount.run("exec 3<>tickets/hand/.post; echo '{}' >&3; busybox cat <&3 | cat");
    wait_for("an event", USUAL, || {
        assert!(posted().starts_with('t'), "an id is told");
        listener.so_far().contains("ticket hand/t")
    });
    let asker = mount.start("exec 3<>tickets/hand/.next; echo >&3; busybox cat <&3 | cat");
    wait_for("an id", USUAL, || {
        asker.so_far().lines().any(|line| line.starts_with('t'))
    });
}
