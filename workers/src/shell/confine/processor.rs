//! The few instructions that the program of `confine` is made of, for each processor that has a filter too.
//!
//! Its arguments, results and the number of a call are where Linux has them: see syscall(2).

/// A processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Processor {
    /// Those of most nodes.
    X86,
    /// AArch64.
    Arm,
    /// With 64 bits.
    Riscv,
}

/// A system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Write,
    Exit,
    Execve,
    Capset,
    Prctl,
    Openat,
    CreateRuleset,
    AddRule,
    RestrictSelf,
}

/// The register behind the six arguments: that of a call's number.
const NUMBER: usize = 6;

/// Registers of riscv that nothing else uses, and those of its arguments.
const RISCV: [u32; 7] = [10, 11, 12, 13, 14, 15, 17];
const RISCV_SPARE: u32 = 5;
const RISCV_KEPT: u32 = 18;
const RISCV_STACK: u32 = 2;

impl Processor {
    /// That of this node.
    pub(super) const HERE: Option<Processor> = if cfg!(target_arch = "x86_64") {
        Some(Processor::X86)
    } else if cfg!(target_arch = "aarch64") {
        Some(Processor::Arm)
    } else if cfg!(target_arch = "riscv64") {
        Some(Processor::Riscv)
    } else {
        None
    };

    /// Its number in the head of a program.
    pub(super) fn machine(self) -> u16 {
        match self {
            Processor::X86 => 62,
            Processor::Arm => 183,
            Processor::Riscv => 243,
        }
    }

    fn number(self, call: Call) -> i32 {
        // The later processors share a table.
        let (x86, others) = match call {
            Call::Write => (1, 64),
            Call::Exit => (231, 94),
            Call::Execve => (59, 221),
            Call::Capset => (126, 91),
            Call::Prctl => (157, 167),
            Call::Openat => (257, 56),
            Call::CreateRuleset => (444, 444),
            Call::AddRule => (445, 445),
            Call::RestrictSelf => (446, 446),
        };
        if self == Processor::X86 { x86 } else { others }
    }

    /// Puts a number into an argument; as long for every number.
    pub(super) fn set(self, argument: usize, value: i32) -> Vec<u8> {
        match self {
            Processor::X86 => {
                // mov rdi, rsi, rdx, r10, r8, r9 or rax, value
                let register = [
                    [0x48, 0xbf],
                    [0x48, 0xbe],
                    [0x48, 0xba],
                    [0x49, 0xba],
                    [0x49, 0xb8],
                    [0x49, 0xb9],
                    [0x48, 0xb8],
                ];
                [&register[argument][..], &i64::from(value).to_le_bytes()].concat()
            }
            Processor::Arm => {
                let register = if argument == NUMBER { 8 } else { word(argument) };
                arm_set(register, i64::from(value))
            }
            Processor::Riscv => riscv_set(RISCV[argument], value),
        }
    }

    /// Makes a call with the arguments that are there.
    pub(super) fn call(self, call: Call) -> Vec<u8> {
        let trap = match self {
            Processor::X86 => vec![0x0f, 0x05],
            Processor::Arm => words(&[0xd400_0001]),
            Processor::Riscv => words(&[0x0000_0073]),
        };
        [self.set(NUMBER, self.number(call)), trap].concat()
    }

    /// Keeps the result of the last call.
    pub(super) fn keep(self) -> Vec<u8> {
        match self {
            // mov r12, rax
            Processor::X86 => vec![0x49, 0x89, 0xc4],
            // mov x19, x0
            Processor::Arm => words(&[0xaa00_03f3]),
            // mv s2, a0
            Processor::Riscv => words(&[add_immediate(RISCV_KEPT, RISCV[0], 0)]),
        }
    }

    /// Makes what was kept the first argument.
    pub(super) fn give_kept(self) -> Vec<u8> {
        match self {
            // mov rdi, r12
            Processor::X86 => vec![0x4c, 0x89, 0xe7],
            // mov x0, x19
            Processor::Arm => words(&[0xaa13_03e0]),
            // mv a0, s2
            Processor::Riscv => words(&[add_immediate(RISCV[0], RISCV_KEPT, 0)]),
        }
    }

    /// Goes past so many bytes if the result of the last call is not negative.
    pub(super) fn skip_if_done(self, bytes: usize) -> Vec<u8> {
        match self {
            // test rax, rax; jns
            Processor::X86 => [&[0x48, 0x85, 0xc0, 0x0f, 0x89][..], &word(bytes).to_le_bytes()].concat(),
            // tbz x0, #63
            Processor::Arm => words(&[0xb6f8_0000 | ((word(bytes) + 4) / 4) << 5]),
            // bgez a0
            Processor::Riscv => words(&[branch(word(bytes) + 4)]),
        }
    }

    /// Writes a rule below the stack: these rights, for the descriptor that was the last result. Its address
    /// becomes the third argument. It is a number of 64 bits and one of 32.
    pub(super) fn rule(self, rights: i32) -> Vec<u8> {
        match self {
            Processor::X86 => [
                // mov [rsp-8], eax
                &[0x89, 0x44, 0x24, 0xf8][..],
                &self.set(NUMBER, rights),
                // mov [rsp-16], rax; lea rdx, [rsp-16]
                &[0x48, 0x89, 0x44, 0x24, 0xf0, 0x48, 0x8d, 0x54, 0x24, 0xf0],
            ]
            .concat(),
            Processor::Arm => [
                // stur w0, [sp, #-8]
                words(&[0xb81f_83e0]),
                arm_set(9, i64::from(rights)),
                // stur x9, [sp, #-16]; sub x2, sp, #16
                words(&[0xf81f_03e9, 0xd100_43e2]),
            ]
            .concat(),
            Processor::Riscv => [
                // sw a0, -8(sp)
                words(&[store(2, RISCV[0], -8)]),
                riscv_set(RISCV_SPARE, rights),
                // sd t0, -16(sp); addi a2, sp, -16
                words(&[store(3, RISCV_SPARE, -16), add_immediate(RISCV[2], RISCV_STACK, -16)]),
            ]
            .concat(),
        }
    }

    /// Makes the program's own arguments, but for its name, and its variables those of execve.
    pub(super) fn own_arguments(self) -> Vec<u8> {
        match self {
            Processor::X86 => vec![
                0x48, 0x8b, 0x7c, 0x24, 0x10, // mov rdi, [rsp+16]
                0x48, 0x8d, 0x74, 0x24, 0x10, // lea rsi, [rsp+16]
                0x48, 0x8b, 0x04, 0x24, // mov rax, [rsp]
                0x48, 0x8d, 0x54, 0xc4, 0x10, // lea rdx, [rsp+rax*8+16]
            ],
            Processor::Arm => words(&[
                0xf940_0be0, // ldr x0, [sp, #16]
                0x9100_43e1, // add x1, sp, #16
                0xf940_03e9, // ldr x9, [sp]
                0x8b09_0c22, // add x2, x1, x9, lsl #3
            ]),
            Processor::Riscv => words(&[
                load(RISCV[0], 16),
                add_immediate(RISCV[1], RISCV_STACK, 16),
                load(RISCV_SPARE, 0),
                // slli t0, t0, 3; add a2, a1, t0
                3 << 20 | RISCV_SPARE << 15 | 1 << 12 | RISCV_SPARE << 7 | 0x13,
                RISCV_SPARE << 20 | RISCV[1] << 15 | RISCV[2] << 7 | 0x33,
            ]),
        }
    }
}

/// movz and three movk: 16 bits each.
fn arm_set(register: u32, value: i64) -> Vec<u8> {
    let part = |at: u32| u32::try_from(value.cast_unsigned() >> (16 * at) & 0xffff).unwrap_or_default() << 5;
    let of = |at: u32| if at == 0 { 0xd280_0000 } else { 0xf280_0000 | at << 21 };
    words(&[0, 1, 2, 3].map(|at| of(at) | part(at) | register))
}

/// lui and addiw: the upper 20 bits, and 12 with a sign.
fn riscv_set(register: u32, value: i32) -> Vec<u8> {
    let upper = value.cast_unsigned().wrapping_add(0x800) & 0xffff_f000;
    let lower = value.cast_unsigned() << 20;
    words(&[
        upper | register << 7 | 0x37,
        lower | register << 15 | register << 7 | 0x1b,
    ])
}

/// addi to, from, number
fn add_immediate(to: u32, from: u32, number: i32) -> u32 {
    number.cast_unsigned() << 20 | from << 15 | to << 7 | 0x13
}

/// ld to, offset(sp)
fn load(to: u32, offset: u32) -> u32 {
    offset << 20 | RISCV_STACK << 15 | 3 << 12 | to << 7 | 0x03
}

/// sw (2) or sd (3) register, offset(sp)
fn store(width: u32, register: u32, offset: i32) -> u32 {
    let offset = offset.cast_unsigned();
    (offset >> 5 & 0x7f) << 25 | register << 20 | RISCV_STACK << 15 | width << 12 | (offset & 0x1f) << 7 | 0x23
}

/// bgez a0, offset
fn branch(offset: u32) -> u32 {
    let parts =
        (offset >> 12 & 1) << 31 | (offset >> 5 & 0x3f) << 25 | (offset >> 1 & 0xf) << 8 | (offset >> 11 & 1) << 7;
    parts | RISCV[0] << 15 | 5 << 12 | 0x63
}

/// All are short.
fn word(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn words(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|word| word.to_le_bytes()).collect()
}
