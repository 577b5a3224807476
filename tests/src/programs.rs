//! Where the programs under test are.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate stands in the project")
        .to_path_buf()
}

/// The binary: `DISTCIFS_BIN`, or `distcifs` in the target folder of this very executable.
pub fn distcifs() -> PathBuf {
    if let Some(path) = std::env::var_os("DISTCIFS_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("an executable knows its path");
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("distcifs"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no distcifs beside {}: run cargo build first, or set DISTCIFS_BIN",
            own.display()
        )
    })
}

/// The folder of the binaries.
pub fn bin_dir() -> PathBuf {
    distcifs().parent().expect("a file has a folder").to_path_buf()
}

/// A worker that comes with distcifs: beside the binary, or a script in workers/.
pub fn worker(name: &str) -> PathBuf {
    let places = [bin_dir().join(name), project().join("workers").join(name)];
    places
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("no worker {name}: neither built nor in workers/"))
}

/// Compiles a program of tests/programs; panics if it can't be.
pub fn compile(source: &str, options: &[&str], to: &Path) {
    let source = project().join("tests/programs").join(source);
    let mut gcc = Command::new("gcc");
    let done = gcc.args(options).args(["-O1", "-o"]).arg(to).arg(source).status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "{gcc:?} (gcc and libc6-dev, of scripts/setup)"
    );
}

/// Whether a program can be run; says so, loudly, if not.
pub fn installed(name: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\"", name])
        .stdout(Stdio::null())
        .status();
    let installed = found.is_ok_and(|status| status.success());
    if !installed {
        skipped(&format!("{name} is not installed here; scripts/setup installs it"));
    }
    installed
}

/// Says that a test was skipped and why, past the capture of what passing tests print.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
