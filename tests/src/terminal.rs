//! A program on a terminal of its own: a pty whose other end is a screen of characters, as far as full-screen programs
//! use one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::process;
use crate::wait::{USUAL, look_for, wait_for};

/// What the program has drawn.
#[derive(Default)]
struct Screen {
    size: (usize, usize),
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    /// A control sequence that has not ended yet.
    sequence: Option<String>,
    /// All control sequences, in order.
    sequences: Vec<String>,
    /// Control characters that are neither line ends nor part of a sequence, and sequences of another form.
    odd: Vec<char>,
    open: Vec<u8>,
}

impl Screen {
    fn resize(&mut self, columns: usize, lines: usize) {
        self.size = (columns, lines);
        self.cells = vec![vec![' '; columns]; lines];
    }

    fn take(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.open);
        let text = match std::str::from_utf8(&all) {
            Ok(text) => text,
            Err(error) => {
                // A character may come in two pieces.
                self.open = all[error.valid_up_to()..].to_vec();
                std::str::from_utf8(&all[..error.valid_up_to()]).unwrap_or_default()
            }
        };
        text.chars().for_each(|letter| self.letter(letter));
    }

    fn letter(&mut self, letter: char) {
        if let Some(sequence) = &mut self.sequence {
            sequence.push(letter);
            match sequence.len() {
                1 if letter != '[' => {
                    self.odd.push(letter);
                    self.sequence = None;
                }
                1 => {}
                _ if ('@'..='~').contains(&letter) => {
                    let sequence = self.sequence.take().unwrap_or_default();
                    self.obey(&sequence);
                    self.sequences.push(sequence);
                }
                _ => {}
            }
            return;
        }
        match letter {
            '\u{1b}' => self.sequence = Some(String::new()),
            '\r' => self.at.0 = 0,
            '\n' => self.at.1 += 1,
            letter if letter.is_control() => self.odd.push(letter),
            letter => {
                if let Some(cell) = self.cells.get_mut(self.at.1).and_then(|line| line.get_mut(self.at.0)) {
                    *cell = letter;
                }
                self.at.0 += 1;
            }
        }
    }

    fn obey(&mut self, sequence: &str) {
        if let Some(place) = sequence.strip_prefix('[').and_then(|rest| rest.strip_suffix('H')) {
            let (line, column) = place.split_once(';').unwrap_or(("1", "1"));
            let number = |text: &str| text.parse::<usize>().unwrap_or(1).saturating_sub(1);
            self.at = (number(column), number(line));
        }
        if matches!(sequence, "[2J" | "[?1049h" | "[?1049l") {
            self.resize(self.size.0, self.size.1);
        }
    }
}

/// How often who reads looks whether the terminal is to hang up, milliseconds.
const LOOK_EVERY_MS: u8 = 50;

/// A program on a terminal; it is killed with this value.
pub struct Terminal {
    child: Child,
    /// The other end, until it hangs up.
    keys: Option<File>,
    reading: Option<JoinHandle<()>>,
    hung_up: Arc<AtomicBool>,
    /// The end that the program has, kept open to be looked at.
    end: OwnedFd,
    screen: Arc<Mutex<Screen>>,
}

impl Terminal {
    /// Starts a program in a session of its own on a terminal of this size.
    pub fn start(words: &[&str], folder: &Path, environment: &[(&str, &str)], columns: u16, lines: u16) -> Terminal {
        let pty = openpty(None, None).expect("a pty");
        // Or the program would hold the other end too, and never see it go.
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a descriptor");
        }
        let screen = Arc::new(Mutex::new(Screen::default()));
        let again = || std::process::Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        size(&pty.slave, columns, lines);
        locked(&screen).resize(columns.into(), lines.into());
        let child = Command::new("setsid")
            .arg("--ctty")
            .args(words)
            .current_dir(folder)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .stdin(again())
            .stdout(again())
            .stderr(again())
            .spawn()
            .expect("setsid of util-linux runs");
        let mut output = File::from(pty.master.try_clone().expect("a descriptor"));
        let hung_up = Arc::new(AtomicBool::new(false));
        let (seen, over) = (screen.clone(), hung_up.clone());
        let reading = spawn(move || {
            let mut bytes = [0; 4096];
            while !over.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
                if poll(&mut ready, LOOK_EVERY_MS) == Ok(0) {
                    continue;
                }
                // The end of a pty is an error.
                let Ok(count @ 1..) = output.read(&mut bytes) else {
                    return;
                };
                locked(&seen).take(&bytes[..count]);
            }
        });
        Terminal {
            child,
            keys: Some(File::from(pty.master)),
            reading: Some(reading),
            hung_up,
            end: pty.slave,
            screen,
        }
    }

    /// The program's process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        let end = self.keys.as_mut().expect("it has not hung up");
        end.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Takes the terminal away, as a connection that breaks does.
    pub fn hang_up(&mut self) {
        self.hung_up.store(true, Ordering::Relaxed);
        let reading = self.reading.take().expect("it has not hung up");
        reading.join().expect("the screen is read");
        self.keys = None;
    }

    /// Gives it another size, upon which the kernel tells the program.
    pub fn resize(&self, columns: u16, lines: u16) {
        locked(&self.screen).resize(columns.into(), lines.into());
        size(&self.end, columns, lines);
    }

    /// What is on the screen, line by line.
    pub fn text(&self) -> String {
        let screen = locked(&self.screen);
        let lines = screen
            .cells
            .iter()
            .map(|line| line.iter().collect::<String>().trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// All control sequences so far, without their escapes.
    pub fn sequences(&self) -> Vec<String> {
        locked(&self.screen).sequences.clone()
    }

    /// What came that no screen needs: other controls than these sequences.
    pub fn odd(&self) -> Vec<char> {
        locked(&self.screen).odd.clone()
    }

    /// Waits until this stands on the screen.
    #[track_caller]
    pub fn until(&self, text: &str) {
        let found = look_for(USUAL, || self.text().contains(text).then_some(()));
        assert!(found.is_some(), "{text:?} is not on the screen:\n{}", self.text());
    }

    /// Whether the terminal is as a shell wants it: lines and echo, signals by keys, and no other screen.
    pub fn is_given_back(&self) -> bool {
        let modes = tcgetattr(&self.end).expect("a terminal").local_modes;
        let wanted = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        let screens = self.sequences();
        let last = screens.iter().rfind(|sequence| sequence.starts_with("[?1049"));
        let cursor = screens.iter().rfind(|sequence| sequence.starts_with("[?25"));
        let pasted = screens.iter().rfind(|sequence| sequence.starts_with("[?2004"));
        modes.contains(wanted)
            && pasted.is_none_or(|sequence| sequence == "[?2004l")
            && last.is_none_or(|sequence| sequence == "[?1049l")
            && cursor.is_none_or(|sequence| sequence == "[?25h")
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Waits for the program's end.
    pub fn end(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_for("the program to end", USUAL + Duration::from_secs(10), || {
            ended = self.child.try_wait().expect("a child");
            ended.is_some()
        });
        ended.expect("it has ended")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn locked(screen: &Mutex<Screen>) -> MutexGuard<'_, Screen> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn size(end: &OwnedFd, columns: u16, lines: u16) {
    let size = Winsize {
        ws_col: columns,
        ws_row: lines,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(end, size).expect("a terminal");
}
