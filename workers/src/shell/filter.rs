//! The system calls that a script in a namespace can't make: a filter for the kernel (seccomp).
//!
//! What is refused is what flatpak refuses its applications, as far as builds do without it, and
//! what leads past the namespaces: sockets of virtual machines, keys, descriptors of page faults,
//! programs for the kernel. Debuggers work (`ptrace` ends at the pid namespace), `perf` does not.
//! io_uring is refused as a whole: it would make the sockets that a filter of calls refuses.
//!
//! The kernel takes the strictest answer of several filters: one here for each answer.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::state::Run;

/// Begins the names of the files.
const NAME: &str = "seccomp";

/// Refused with EPERM whatever their arguments.
const REFUSED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// The same of calls that only one processor has.
#[cfg(target_arch = "x86_64")]
const REFUSED_ALSO: &[i64] = &[libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_modify_ldt, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_ALSO: &[i64] = &[];

/// open_tree_attr(2) of Linux 6.15.
const SYS_OPEN_TREE_ATTR: i64 = 467;

/// Answered as by a kernel that has no such call, so that programs go on with older ones: what
/// clone3 is to do can't be seen by a filter.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
];

/// The only families of sockets that there are.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// TIOCSTI and TIOCLINUX: they put words into the mouth of a terminal's user.
const TERMINAL_REQUESTS: [u64; 2] = [0x5412, 0x541c];

/// Execution domains that a program may take: Linux in both word lengths, without randomisation and
/// with the number of an old release, and the question which it has.
const PERSONALITIES: [u64; 7] = [0, 8, 0x2_0000, 0x2_0008, 0x4_0000, 0x4_0008, 0xffff_ffff];

/// The numbers of calls of programs that see 64 bits and use 32 (x32) begin here.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Writes the filters into a worker's folder, as files of the name that is given back with `.0`, `.1` …
/// behind it.
///
/// # Errors
/// If there is no filter for this processor, or no room.
pub(super) fn write(run: &Run) -> io::Result<PathBuf> {
    let programs = programs().map_err(io::Error::other)?;
    for (index, program) in programs.iter().enumerate() {
        run.write_own(&format!("{NAME}.{index}"), &bytes(program))?;
    }
    Ok(run.own(NAME))
}

/// One filter for each answer.
fn programs() -> Result<Vec<BpfProgram>, String> {
    let text = |error: seccompiler::BackendError| error.to_string();
    let processor = std::env::consts::ARCH;
    let processor =
        TargetArch::try_from(processor).map_err(|_| format!("no filter of system calls for {processor}"))?;
    let answers = [
        (libc::EPERM, refused().map_err(text)?),
        (libc::ENOSYS, ABSENT.iter().map(|call| (*call, Vec::new())).collect()),
        (libc::EAFNOSUPPORT, sockets().map_err(text)?),
    ];
    let compile = |(errno, rules): (i32, Rules)| {
        let answer = SeccompAction::Errno(errno.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, processor)?;
        let program: BpfProgram = filter.try_into()?;
        Ok(native_only(program))
    };
    answers.into_iter().map(compile).collect::<Result<_, _>>().map_err(text)
}

/// One condition on the lower half of an argument, which is all that the kernel looks at.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

/// A rule for each of these conditions.
fn any(conditions: Vec<SeccompCondition>) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    conditions.into_iter().map(|one| SeccompRule::new(vec![one])).collect()
}

fn refused() -> Result<Rules, seccompiler::BackendError> {
    let always = REFUSED.iter().chain(REFUSED_ALSO);
    let mut rules: Rules = always.map(|call| (*call, Vec::new())).collect();
    let namespace = libc::CLONE_NEWUSER.unsigned_abs().into();
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        rules.insert(
            call,
            any(vec![argument(0, SeccompCmpOp::MaskedEq(namespace), namespace)?])?,
        );
    }
    let requests = TERMINAL_REQUESTS.map(|request| argument(1, SeccompCmpOp::Eq, request));
    rules.insert(libc::SYS_ioctl, any(requests.into_iter().collect::<Result<_, _>>()?)?);
    let others = PERSONALITIES.map(|known| argument(0, SeccompCmpOp::Ne, known));
    let others = SeccompRule::new(others.into_iter().collect::<Result<_, _>>()?)?;
    rules.insert(libc::SYS_personality, vec![others]);
    Ok(rules)
}

fn sockets() -> Result<Rules, seccompiler::BackendError> {
    let others = || {
        let others = FAMILIES.map(|family| argument(0, SeccompCmpOp::Ne, family.unsigned_abs().into()));
        Ok(vec![SeccompRule::new(others.into_iter().collect::<Result<_, _>>()?)?])
    };
    Ok(BTreeMap::from([
        (libc::SYS_socket, others()?),
        (libc::SYS_socketpair, others()?),
    ]))
}

/// Calls of x32 look like those of this processor with other numbers, which no rule names.
#[cfg(target_arch = "x86_64")]
fn native_only(program: BpfProgram) -> BpfProgram {
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let guard = [
        // The number of the call; -1 is that of one that a debugger took away.
        step(0x20, 0, 0, 0),
        step(0x35, 0, 2, X32),
        step(0x15, 1, 0, u32::MAX),
        step(0x06, 0, 0, 0x0005_0000 | libc::ENOSYS.unsigned_abs()),
    ];
    guard.into_iter().chain(program).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn native_only(program: BpfProgram) -> BpfProgram {
    program
}

/// A filter as the kernel reads it.
fn bytes(program: &BpfProgram) -> Vec<u8> {
    let step = |step: &sock_filter| {
        let [a, b] = step.code.to_ne_bytes();
        let [c, d, e, f] = step.k.to_ne_bytes();
        [a, b, step.jt, step.jf, c, d, e, f]
    };
    program.iter().flat_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel sees of a call.
    fn answer(program: &[sock_filter], architecture: u32, call: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(call.to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |hit: bool| usize::from(if hit { step.jt } else { step.jf });
            match step.code {
                0x20 => {
                    let offset = usize::try_from(step.k).unwrap();
                    accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                0x54 => accumulator &= step.k,
                0x05 => at += usize::try_from(step.k).unwrap(),
                0x15 => at += jump(accumulator == step.k),
                0x25 => at += jump(accumulator > step.k),
                0x35 => at += jump(accumulator >= step.k),
                0x06 => return step.k,
                other => unreachable!("an instruction that is not used here: {other:#x}"),
            }
        }
    }

    /// The strictest answer of all filters: the errno, or 0 for yes, or `None` for an end at once.
    fn ask(call: i64, arguments: &[u64]) -> Option<u32> {
        ask_on(0xc000_003e, u32::try_from(call).unwrap(), arguments)
    }

    fn ask_on(architecture: u32, call: u32, given: &[u64]) -> Option<u32> {
        let mut arguments = [0; 6];
        arguments[..given.len()].copy_from_slice(given);
        let answers: Vec<u32> = programs()
            .unwrap()
            .iter()
            .map(|program| answer(program, architecture, call, arguments))
            .collect();
        if answers.contains(&0x8000_0000) {
            return None;
        }
        let errno = answers.iter().find(|answer| *answer & 0xffff_0000 == 0x0005_0000);
        Some(errno.map_or(0, |answer| answer & 0xffff))
    }

    const EPERM: Option<u32> = Some(1);
    const ENOSYS: Option<u32> = Some(38);
    const NO_FAMILY: Option<u32> = Some(97);
    const YES: Option<u32> = Some(0);

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_leads_out_is_refused_and_what_builds_need_is_not() {
        for call in REFUSED.iter().chain(REFUSED_ALSO) {
            assert_eq!(ask(*call, &[]), EPERM, "{call}");
        }
        for call in ABSENT {
            assert_eq!(ask(*call, &[]), ENOSYS, "{call}");
        }
        let high = 0xffff_ffff_0000_0000;
        for (call, arguments, expected) in [
            (libc::SYS_socket, [40, 1], NO_FAMILY),
            (libc::SYS_socket, [high | 40, 1], NO_FAMILY),
            (libc::SYS_socket, [38, 5], NO_FAMILY),
            (libc::SYS_socketpair, [40, 1], NO_FAMILY),
            (libc::SYS_socket, [1, 1], YES),
            (libc::SYS_socket, [high | 2, 1], YES),
            (libc::SYS_socket, [10, 1], YES),
            (libc::SYS_socket, [16, 3], YES),
            (libc::SYS_ioctl, [0, 0x5412], EPERM),
            (libc::SYS_ioctl, [0, high | 0x5412], EPERM),
            (libc::SYS_ioctl, [0, 0x541c], EPERM),
            (libc::SYS_ioctl, [0, 0x5401], YES),
            (libc::SYS_clone, [0x1000_0000 | 17, 0], EPERM),
            (libc::SYS_clone, [17, 0], YES),
            (libc::SYS_unshare, [0x1002_0000, 0], EPERM),
            (libc::SYS_personality, [6, 0], EPERM),
            (libc::SYS_personality, [0x4_0000, 0], YES),
            (libc::SYS_personality, [0xffff_ffff, 0], YES),
            (libc::SYS_ptrace, [0, 0], YES),
            (libc::SYS_execve, [0, 0], YES),
            (libc::SYS_openat, [0, 0], YES),
        ] {
            assert_eq!(ask(call, &arguments), expected, "{call} {arguments:x?}");
        }
    }

    /// "What is refused is what flatpak refuses its applications, as far as builds do without it": its list of
    /// x86_64, written out by hand from its source. Debuggers are let, and of `unshare` what makes no user.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_flatpak_refuses_is_refused() {
        for (name, call) in [
            ("modify_ldt", 154),
            ("pivot_root", 155),
            ("chroot", 161),
            ("acct", 163),
            ("mount", 165),
            ("umount2", 166),
            ("syslog", 103),
            ("uselib", 134),
            ("quotactl", 179),
            ("mbind", 237),
            ("set_mempolicy", 238),
            ("get_mempolicy", 239),
            ("add_key", 248),
            ("request_key", 249),
            ("keyctl", 250),
            ("migrate_pages", 256),
            ("move_pages", 279),
            ("perf_event_open", 298),
            ("setns", 308),
        ] {
            assert_eq!(ask(call, &[]), EPERM, "{name}");
        }
        let new_user = 0x1000_0000;
        for (name, call, arguments) in [
            ("unshare", 272, [new_user, 0]),
            ("clone", 56, [new_user | 17, 0]),
            ("ioctl TIOCSTI", 16, [0, 0x5412]),
            ("ioctl TIOCLINUX", 16, [0, 0x541c]),
            ("personality", 135, [1, 0]),
        ] {
            assert_eq!(ask(call, &arguments), EPERM, "{name}");
        }
        for (name, call) in [
            ("open_tree", 428),
            ("move_mount", 429),
            ("fsopen", 430),
            ("fsconfig", 431),
            ("fsmount", 432),
            ("fspick", 433),
            ("clone3", 435),
            ("mount_setattr", 442),
        ] {
            assert_eq!(ask(call, &[]), ENOSYS, "{name}");
        }
    }

    /// "Programs of other architectures are refused": their numbers mean other calls.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_of_other_architectures_are_refused() {
        assert_eq!(ask_on(0x4000_0003, 20, &[]), None, "32 bits");
        assert_eq!(ask_on(0xc000_003e, X32 | 39, &[]), ENOSYS, "x32");
        assert_eq!(ask_on(0xc000_003e, X32 | 41, &[40]), ENOSYS, "x32");
        assert_eq!(ask_on(0xc000_003e, u32::MAX, &[]), YES, "a debugger's");
    }

    #[test]
    fn a_filter_has_eight_bytes_for_each_step() {
        for program in programs().unwrap() {
            assert!(program.len() < 4096);
            assert_eq!(bytes(&program).len(), program.len() * 8);
        }
    }
}
