//! What keeps an isolated script from what somebody hands it: a program that runs before it, and Landlock.
//!
//! A socket passes descriptors. Who is outside may so show a script a folder of the node, and files that it makes
//! there are of ids that further tasks will have. Mounts and ids are no bound for that; Landlock is: the script
//! opens, makes and runs what lies below its own `/`, by whatever descriptor.
//!
//! It must be asked for inside, when all is mounted, and in an image nothing but the image is there: any C library
//! or none, and what a loader reads of it is an attacker's. So the program stands for itself: some calls of the
//! kernel, written out here for the processor. `doc/decisions/047-descriptors-from-outside.md` has the ways not taken.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::prctl::set_no_new_privs;

use super::state::Run;

mod processor;

use processor::{Call, Processor};

/// Its name among the files that a script's environment shows it.
pub const NAME: &str = "confine";

/// Where it is in memory.
const BASE: i32 = 0x40_0000;

/// Status if the kernel refuses something, and if the next program can't be started; a shell has them as well.
const REFUSED: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Numbers of the kernel, the same on all processors that are known here.
const O_PATH: i32 = 0o10_000_000;
const O_CLOEXEC: i32 = 0o2_000_000;
const AT_FDCWD: i32 = -100;
const PATH_BENEATH: i32 = 1;
const PR_CAPBSET_DROP: i32 = 24;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const CAP_SYS_ADMIN: i32 = 21;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Longest reason, bytes.
const REASON_BYTES_MAX: usize = 200;

/// What a kernel can be asked to handle: rights on files, and scopes of sockets and signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Handled {
    files: u16,
    scopes: u8,
}

/// By versions, the newest first: 6 (Linux 6.12) with abstract sockets and signals, 5 (6.10) with devices'
/// requests, 3 (6.2) with truncation, 2 (5.19) with moves between folders. The first lets nothing be moved, which no
/// build could do without.
const VERSIONS: [Handled; 4] = [
    Handled {
        files: 0xffff,
        scopes: 3,
    },
    Handled {
        files: 0xffff,
        scopes: 0,
    },
    Handled {
        files: 0x7fff,
        scopes: 0,
    },
    Handled {
        files: 0x3fff,
        scopes: 0,
    },
];

/// The program, as this kernel takes it.
#[derive(Debug)]
pub struct Confine {
    bytes: Vec<u8>,
}

/// Landlock's first version with moves between folders.
const VERSION_MIN: i32 = 2;

/// What a kernel of this version of Landlock can be asked to handle; later ones add what is not asked for.
fn of_version(version: i32) -> Option<Handled> {
    match version {
        6.. => Some(VERSIONS[0]),
        5 => Some(VERSIONS[1]),
        3 | 4 => Some(VERSIONS[2]),
        VERSION_MIN => Some(VERSIONS[3]),
        _ => None,
    }
}

impl Confine {
    /// That of the version that this kernel says it has, if that works here, which is tried.
    ///
    /// # Errors
    /// For people: why there is none.
    pub fn find(run: &Run) -> Result<Self, String> {
        let processor = Processor::HERE.ok_or("there is no program of ours for this processor")?;
        let asking = Confine {
            bytes: image(processor, |_| asking(processor)),
        };
        let failed = |error: io::Error| format!("{}: {error}", run.files().display());
        let status = asking.write(run).and_then(asked).map_err(failed)?;
        let version = version(status)?;
        Self::of(processor, version, |confine| {
            confine.write(run).and_then(tried).map_err(failed)
        })
    }

    /// That of this version, if its trial says nothing against it. With fewer rights than the kernel knows it would
    /// work where the kernel refuses it for another reason, and keep less from the script: so nothing else is tried.
    fn of(
        processor: Processor,
        version: i32,
        trial: impl FnOnce(&Self) -> Result<Option<String>, String>,
    ) -> Result<Self, String> {
        let handled = of_version(version)
            .ok_or_else(|| format!("this kernel's Landlock is of version {version}: Linux 5.19 has {VERSION_MIN}"))?;
        let confine = Confine {
            bytes: program(processor, handled),
        };
        match trial(&confine)? {
            None => Ok(confine),
            Some(said) => Err(format!(
                "this kernel has Landlock of version {version}, and its trial failed: {said}"
            )),
        }
    }

    /// Writes it into what a script's environment shows it, for everybody to run.
    ///
    /// # Errors
    /// If there is no room.
    pub fn write(&self, run: &Run) -> io::Result<PathBuf> {
        let path = run.write(NAME, &self.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o555))?;
        Ok(path)
    }
}

/// Asks the kernel for its version of Landlock: the status with which this ends.
fn asked(program: PathBuf) -> io::Result<i32> {
    let status = Command::new(program).stdin(Stdio::null()).status()?;
    status
        .code()
        .ok_or_else(|| io::Error::other(format!("the question for its version ended: {status}")))
}

/// The version that a status stands for; an errno is negative.
fn version(status: i32) -> Result<i32, String> {
    const BYTE: i32 = 1 << 8;
    match status {
        1..=127 => Ok(status),
        _ => {
            let why = io::Error::from_raw_os_error(BYTE - status);
            Err(format!("this kernel has no Landlock that can be used ({why})"))
        }
    }
}

/// Whether it works; else what it says. A thread that ends with it has no new rights, so that anybody may try.
fn tried(program: PathBuf) -> io::Result<Option<String>> {
    let attempt = move || {
        set_no_new_privs()?;
        let mut command = Command::new(program);
        command.args(["/bin/sh", "-c", ":"]).stdin(Stdio::null()).output()
    };
    let output = thread::spawn(attempt).join();
    let output = output.map_err(|_| io::Error::other("its trial ended"))??;
    let said = || {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().chars().take(REASON_BYTES_MAX).collect();
        if said.is_empty() {
            output.status.to_string()
        } else {
            said
        }
    };
    Ok((!output.status.success()).then(said))
}

/// What stands behind the instructions.
struct Data {
    bytes: Vec<u8>,
    at: i32,
}

impl Data {
    /// Adds something; its address, and how long it is.
    fn add(&mut self, bytes: &[u8]) -> (i32, i32) {
        let place = self.at + i32::try_from(self.bytes.len()).unwrap_or(i32::MAX);
        self.bytes.extend(bytes);
        // Numbers are read at multiples of eight.
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        (place, i32::try_from(bytes.len()).unwrap_or(i32::MAX))
    }
}

/// The whole program.
fn program(processor: Processor, handled: Handled) -> Vec<u8> {
    image(processor, |data| instructions(processor, handled, data))
}

/// A program of these instructions.
fn image(processor: Processor, instructions: impl Fn(&mut Data) -> Vec<u8>) -> Vec<u8> {
    let head = head(processor, 0).len();
    let first = head.next_multiple_of(8);
    let with = |code: usize| {
        let mut data = Data {
            bytes: Vec::new(),
            at: BASE + i32::try_from((first + code).next_multiple_of(8)).unwrap_or(i32::MAX),
        };
        (instructions(&mut data), data)
    };
    // However far the data is, the instructions that name it are as long.
    let length = with(0).0.len();
    let (code, data) = with(length);
    let mut bytes = vec![0; first];
    bytes.extend(code);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(data.bytes);
    let head = self::head(processor, bytes.len());
    bytes[..head.len()].copy_from_slice(&head);
    bytes
}

/// What the program does that ends with the kernel's version of Landlock.
fn asking(processor: Processor) -> Vec<u8> {
    const CREATE_RULESET_VERSION: i32 = 1;
    let steps = [
        processor.set(0, 0),
        processor.set(1, 0),
        processor.set(2, CREATE_RULESET_VERSION),
        processor.call(Call::CreateRuleset),
        processor.keep(),
        processor.give_kept(),
        processor.call(Call::Exit),
    ];
    steps.concat()
}

/// What it does, and what that reads and says behind it.
fn instructions(processor: Processor, handled: Handled, data: &mut Data) -> Vec<u8> {
    let mut code = Vec::new();
    let call = |call: Call, arguments: &[i32]| {
        let set = arguments.iter().enumerate();
        let set = set.flat_map(|(at, value)| processor.set(at, *value));
        set.chain(processor.call(call)).collect::<Vec<u8>>()
    };
    let mut fail = |what: &str, status: i32| {
        let (text, length) = data.add(format!("confine: {what}\n").as_bytes());
        [call(Call::Write, &[2, text, length]), call(Call::Exit, &[status])].concat()
    };
    let fails = [
        fail("landlock_create_ruleset is refused", REFUSED),
        fail("/ can't be opened", REFUSED),
        fail("landlock_add_rule is refused", REFUSED),
        fail("landlock_restrict_self is refused", REFUSED),
        fail("rights can't be given up", REFUSED),
    ];
    let not_started = fail("the program can't be started", NOT_FOUND);
    let (root, _) = data.add(b"/\0");
    let rights = u64::from(handled.files);
    let ruleset: Vec<u8> = [rights, 0, u64::from(handled.scopes)]
        .iter()
        .flat_map(|n| n.to_ne_bytes())
        .collect();
    let (ruleset, ruleset_bytes) = data.add(&ruleset);
    let (capabilities, _) = data.add(&[CAPABILITY_VERSION_3, 0].map(u32::to_ne_bytes).concat());
    let (none, _) = data.add(&[0; 24]);
    let mut checked = |step: Vec<u8>, fail: &[u8]| {
        code.extend(step);
        code.extend(processor.skip_if_done(fail.len()));
        code.extend(fail);
    };
    let [no_ruleset, no_root, no_rule, not_restricted, not_given_up] = fails;
    checked(call(Call::CreateRuleset, &[ruleset, ruleset_bytes, 0]), &no_ruleset);
    let open = call(Call::Openat, &[AT_FDCWD, root, O_PATH | O_CLOEXEC, 0]);
    checked([processor.keep(), open].concat(), &no_root);
    let rule = [
        processor.rule(i32::from(handled.files)),
        processor.give_kept(),
        processor.set(1, PATH_BENEATH),
        processor.set(3, 0),
        processor.call(Call::AddRule),
    ];
    checked(rule.concat(), &no_rule);
    let restrict = [
        processor.give_kept(),
        processor.set(1, 0),
        processor.call(Call::RestrictSelf),
    ];
    checked(restrict.concat(), &not_restricted);
    // A container that keeps set-user-id programs has this right up to here, as they could not be kept apart
    // without it. Root that is root inside has what is in the bounding set, again, in the next program. Who can't
    // take it out of there gains nothing by any program from here on.
    let nothing_new = call(Call::Prctl, &[PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]);
    code.extend(call(Call::Prctl, &[PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0]));
    code.extend(processor.skip_if_done(nothing_new.len()));
    code.extend(nothing_new);
    code.extend(call(Call::Capset, &[capabilities, none]));
    code.extend(processor.skip_if_done(not_given_up.len()));
    code.extend(not_given_up);
    code.extend(processor.own_arguments());
    code.extend(processor.call(Call::Execve));
    code.extend(not_started);
    code
}

/// The head of a program of so many bytes: all of it is shown, to be read and run, and the stack is none that runs.
fn head(processor: Processor, bytes: usize) -> Vec<u8> {
    const HEAD: u16 = 64;
    const SEGMENT: u16 = 56;
    const SEGMENTS: u16 = 2;
    let base = u64::from(BASE.unsigned_abs());
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let entry = base + u64::from(HEAD + SEGMENTS * SEGMENT).next_multiple_of(8);
    // ELF, 64 bits, little end first, version 1.
    let mut head = b"\x7fELF\x02\x01\x01".to_vec();
    head.resize(16, 0);
    head.extend(2u16.to_le_bytes());
    head.extend(processor.machine().to_le_bytes());
    head.extend(1u32.to_le_bytes());
    for place in [entry, u64::from(HEAD), 0] {
        head.extend(place.to_le_bytes());
    }
    head.extend(0u32.to_le_bytes());
    for number in [HEAD, SEGMENT, SEGMENTS, 0, 0, 0] {
        head.extend(number.to_le_bytes());
    }
    // Kind and flags; offset, address twice, size twice, alignment.
    let shown = [0, base, base, bytes, bytes, 0x1_0000];
    let stack = [0, 0, 0, 0, 0, 16];
    for (kind, flags, numbers) in [(1u32, 5u32, shown), (0x6474_e551, 6, stack)] {
        head.extend(kind.to_le_bytes());
        head.extend(flags.to_le_bytes());
        head.extend(numbers.iter().flat_map(|number: &u64| number.to_le_bytes()));
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::state::State;

    /// A worker's folder of the test's own, and the program in it.
    fn with_program(name: &str, handled: Handled, test: impl FnOnce(&std::path::Path)) {
        let folder = std::env::temp_dir().join(format!("distcifs-confine-{name}-{}", std::process::id()));
        let run = State::open(Some(&folder)).unwrap().begin().unwrap();
        let bytes = program(Processor::HERE.unwrap(), handled);
        test(&Confine { bytes }.write(&run).unwrap());
        drop(run);
        fs::remove_dir_all(&folder).unwrap();
    }

    /// Runs it without new rights, as all may; its status, what it said, and its complaints.
    fn run(program: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = thread::scope(|scope| {
            let start = || {
                set_no_new_privs().unwrap();
                Command::new(program)
                    .args(arguments)
                    .env("SHOWN", "to it")
                    .output()
                    .unwrap()
            };
            scope.spawn(start).join().unwrap()
        });
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
    fn it_becomes_the_program_with_its_arguments_and_variables() {
        let Ok(handled) = newest() else {
            eprintln!("SKIPPED: this kernel has no Landlock");
            return;
        };
        with_program("becomes", handled, |program| {
            let script = "echo \"$0 $# $2 $SHOWN\"; grep -c '^CapEff:.*[1-9a-f]' /proc/self/status; exit 7";
            let (status, said, _) = run(program, &["/bin/sh", "-c", script, "name", "a", "b c"]);
            assert_eq!(status, Some(7));
            assert!(said.starts_with("name 2 b c to it\n"), "{said}");
            // Whoever it was, that right is in no set that the next program can take from.
            let (_, bounds, _) = run(program, &["/bin/grep", "CapBnd", "/proc/self/status"]);
            let bounds = u64::from_str_radix(bounds.split_whitespace().last().unwrap(), 16).unwrap();
            let root = nix::unistd::geteuid().is_root();
            assert!(!root || bounds >> 21 & 1 == 0, "{bounds:x}");
            assert_eq!(run(program, &["/no/such"]).0, Some(NOT_FOUND));
            assert_eq!(run(program, &[]).0, Some(NOT_FOUND));
        });
    }

    /// "The kernel's version of Landlock says which rights are asked for. Where their trial fails nothing weaker is taken":
    /// the isolation is not offered, and says why.
    #[test]
    fn the_kernels_version_alone_decides() {
        for (version, files, scopes) in [
            (2, 0x3fff, 0),
            (3, 0x7fff, 0),
            (4, 0x7fff, 0),
            (5, 0xffff, 0),
            (6, 0xffff, 3),
            (9, 0xffff, 3),
        ] {
            let tries = std::cell::Cell::new(0);
            let bytes = program(Processor::X86, Handled { files, scopes });
            let found = |said: Option<&str>| {
                Confine::of(Processor::X86, version, |confine| {
                    tries.set(tries.get() + 1);
                    assert!(confine.bytes == bytes, "{version}");
                    Ok(said.map(str::to_owned))
                })
            };
            assert!(found(None).is_ok());
            let why = found(Some("confine: landlock_restrict_self is refused")).unwrap_err();
            assert!(
                why.contains(&format!("version {version}, and its trial failed: confine: ")),
                "{why}"
            );
            assert_eq!(tries.get(), 2, "{version}");
        }
        let why = Confine::of(Processor::X86, 1, |_| panic!("nothing is tried")).unwrap_err();
        assert!(why.contains("is of version 1: Linux 5.19 has 2"), "{why}");
        assert_eq!(version(7), Ok(7));
        for (errno, why) in [
            (libc::ENOSYS, "not implemented"),
            (libc::EOPNOTSUPP, "not supported"),
            (libc::EPERM, "not permitted"),
        ] {
            let said = version(256 - errno).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    /// What the kernel does not know it refuses, and then nothing is run.
    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
    fn without_landlock_nothing_is_run() {
        let unknown = Handled {
            files: 0xffff,
            scopes: 0x80,
        };
        with_program("unknown", unknown, |program| {
            let (status, said, why) = run(program, &["/bin/sh", "-c", "echo it runs"]);
            assert_eq!((status, said.as_str()), (Some(REFUSED), ""));
            assert_eq!(why, "confine: landlock_create_ruleset is refused\n");
            assert!(tried(program.to_owned()).unwrap().is_some());
        });
    }

    /// The newest version that works here.
    fn newest() -> Result<Handled, String> {
        let folder = std::env::temp_dir().join(format!("distcifs-confine-newest-{}", std::process::id()));
        let run = State::open(Some(&folder)).unwrap().begin().unwrap();
        let found = Confine::find(&run);
        drop(run);
        fs::remove_dir_all(&folder).unwrap();
        let bytes = found?.bytes;
        let same = |handled: &Handled| program(Processor::HERE.unwrap(), *handled) == bytes;
        Ok(*VERSIONS.iter().find(|handled| same(handled)).unwrap())
    }

    /// Words of each processor, as disassemblers and emulators of all three have read them: arguments, a call, what
    /// goes past 60 bytes, and those of execve.
    #[test]
    fn instructions_are_those_of_the_processor() {
        let of = |processor: Processor| {
            let steps = [
                processor.set(0, 2),
                processor.set(1, -100),
                processor.call(Call::RestrictSelf),
                processor.skip_if_done(60),
                processor.own_arguments(),
            ];
            steps.concat().chunks(4).map(hex).collect::<Vec<String>>().join(" ")
        };
        assert_eq!(
            of(Processor::X86),
            "48bf0200 00000000 000048be 9cffffff ffffffff 48b8be01 00000000 00000f05 \
             4885c00f 893c0000 00488b7c 2410488d 74241048 8b042448 8d54c410"
        );
        assert_eq!(
            of(Processor::Arm),
            "400080d2 0000a0f2 0000c0f2 0000e0f2 81f39fd2 e1ffbff2 e1ffdff2 e1fffff2 \
             c83780d2 0800a0f2 0800c0f2 0800e0f2 010000d4 0002f8b6 e00b40f9 e1430091 \
             e90340f9 220c098b"
        );
        assert_eq!(
            of(Processor::Riscv),
            "37050000 1b052500 b7050000 9b85c5f9 b7080000 9b88e81b 73000000 63500504 \
             03350101 93050101 83320100 93923200 33865500"
        );
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
