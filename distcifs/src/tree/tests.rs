//! The tree driven in process: no mount, no kernel, no server. What only a kernel shows is in
//! tests/tests/ (doc/decisions/041-the-tree-in-process.md says which test is where).

/// Makes a test of each function on a tree that is alone and on one among others: what the stores
/// decide is the same.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod alone {
            $(#[test]
            fn $name() {
                super::$name(crate::tree::tests::driver::Fs::alone());
            })*
        }
        mod shared {
            $(#[test]
            fn $name() {
                super::$name(crate::tree::tests::driver::Fs::shared());
            })*
        }
    };
}

mod approved;
mod config;
mod consoles;
mod downstream;
mod driver;
mod enabled;
mod held;
mod notify;
mod results;
mod scarce;
mod shape;
mod strangers;
mod tasks;
mod tickets;
mod time;
mod trigger;
mod verbs;
