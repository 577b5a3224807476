//! What the process says on standard output and standard error.
//!
//! The macros of the standard library of the same names panic where nobody can be told: a full disk under
//! a log, or a closed pipe, would end the process. These shadow them in the whole crate.

/// Tells standard error; what can't be told is lost.
#[macro_export]
macro_rules! eprintln {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let line = std::format!("{}\n", std::format_args!($($words)*));
        let _unheard = std::io::stderr().write_all(line.as_bytes());
    }};
}

/// Tells standard output; what can't be told is lost.
macro_rules! println {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let line = std::format!("{}\n", std::format_args!($($words)*));
        let _unheard = std::io::stdout().write_all(line.as_bytes());
    }};
}
