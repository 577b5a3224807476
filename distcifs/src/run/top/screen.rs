//! The terminal under `top`: taken, given back however the program ends or stops, and never waited for by the tree.

use std::io::{IsTerminal, Stdout, stdout};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::getpid;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, DisableBracketedPaste, EnableBracketedPaste, Event, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

use super::app::{App, Leave};
use super::draw::{Look, draw};
use super::read::{Reader, Shared, listen, now};
use super::sight::Sight;
use crate::run::{Failure, Outcome};

/// How soon a key or a signal is answered, and how often the screen is drawn without one.
const TICK: Duration = Duration::from_millis(100);
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// Lines of events that wait for the reader.
const TOLD_MAX: usize = 1024;

/// What ends or stops a program: of all of them the terminal must not be left as it is.
const SIGNALS: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Why there can be no screen here.
pub(super) fn unfit() -> Option<&'static str> {
    let term = std::env::var_os("TERM").unwrap_or_default();
    let poor = term.is_empty() || term == "dumb";
    (stdout().is_terminal() && poor).then_some("this terminal shows lines only (TERM): use distcifs top --once")
}

/// The terminal while it is ours.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    /// Whether it was given back as a thread panicked: it is not ours any more.
    lost: Arc<AtomicBool>,
}

fn enter() -> std::io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste, Hide)
}

/// Gives the terminal back; where it is gone there is nobody to tell.
fn leave() {
    execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen, Show).ok();
    disable_raw_mode().ok();
}

/// Has something done before a panic is told: who panics says so on a terminal that is as it was. `lost` is set
/// first, so that no other thread goes on to draw.
fn before_panics(lost: Arc<AtomicBool>, done: impl Fn() + Send + Sync + 'static) {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        lost.store(true, Ordering::SeqCst);
        done();
        tell(info);
    }));
}

impl Screen {
    fn new() -> std::io::Result<Self> {
        let lost = Arc::new(AtomicBool::new(false));
        before_panics(lost.clone(), leave);
        let made = enter().and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match made {
            Ok(terminal) => Ok(Screen { terminal, lost }),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }

    /// Takes it anew: somebody else may have had it meanwhile.
    fn again(&mut self) -> std::io::Result<()> {
        disable_raw_mode()?;
        enter()?;
        // Not by `clear`, which asks the terminal where its cursor is: not every one answers.
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }

    /// Stops until the shell lets us go on.
    fn stop(&mut self) -> std::io::Result<()> {
        leave();
        kill(getpid(), Signal::SIGSTOP).map_err(std::io::Error::from)?;
        self.again()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.lost.load(Ordering::SeqCst) {
            // To leave it twice would put the cursor above what was told. It may have been drawn upon since.
            execute!(stdout(), Show).ok();
        } else {
            leave();
        }
    }
}

/// Waits for signals, which are blocked in all threads that are made after this.
fn signals() -> Result<Receiver<Signal>, String> {
    let set: SigSet = SIGNALS.into_iter().collect();
    let explain = |error: &dyn std::fmt::Display| format!("signals: {error}");
    set.thread_block().map_err(|error| explain(&error))?;
    let (sender, receiver): (Sender<Signal>, _) = channel();
    let wait = move || {
        while let Ok(signal) = set.wait() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    let begun = thread::Builder::new().name("signals".into()).spawn(wait);
    begun.map_err(|error| explain(&error))?;
    Ok(receiver)
}

/// Ends the program when its terminal is gone: no signal may say so, and what reads keys would read for ever, as each
/// read gives nothing at once.
fn end_with_terminal() -> std::io::Result<()> {
    let ended = 128_u8.saturating_add(Signal::SIGHUP as u8);
    let wait = move || {
        let screen = stdout();
        // Hanging up is told without being asked for.
        let mut terminal = [PollFd::new(screen.as_fd(), PollFlags::empty())];
        while let Err(Errno::EINTR) | Ok(0) = poll(&mut terminal, PollTimeout::NONE) {}
        leave();
        std::process::exit(ended.into());
    };
    thread::Builder::new().name("terminal".into()).spawn(wait).map(drop)
}

/// Shows the tree until somebody quits.
pub(super) fn show(sight: Sight) -> Outcome {
    let refused = |error: std::io::Error| Failure::Refused(format!("the terminal: {error}"));
    let threads = |error: std::io::Error| Failure::Refused(format!("threads: {error}"));
    let signals = signals().map_err(Failure::Refused)?;
    let (tell, told) = sync_channel(TOLD_MAX);
    let shared = Arc::new(Shared::default());
    let reader = Reader::new(sight.clone());
    let (asked, to, all) = (reader.asked(), tell.clone(), shared.clone());
    let events = sight.another();
    let named = |name: &str| thread::Builder::new().name(name.into());
    let reading = named("reader")
        .spawn(move || reader.follow(&all, &told))
        .map_err(threads)?;
    named("events").spawn(move || listen(&events, &to)).map_err(threads)?;
    let mut app = App::new(sight.another(), shared, tell, asked);
    let look = Look {
        colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    end_with_terminal().map_err(threads)?;
    let mut screen = Screen::new().map_err(refused)?;
    let mut drawn: Option<Instant> = None;
    loop {
        if screen.lost.load(Ordering::SeqCst) || reading.is_finished() {
            drop(screen);
            let why = "a thread of it ended; that is a fault of distcifs";
            return Err(Failure::Refused(why.into()));
        }
        // What was typed before a question stands there is taken before it does: none of that answers it.
        let ahead = app.asks_anew() && event::poll(Duration::ZERO).map_err(refused)?;
        if !ahead && drawn.is_none_or(|at| at.elapsed() >= DRAW_EVERY) {
            app.refresh();
            screen
                .terminal
                .draw(|frame| draw(frame, &mut app, look, now()))
                .map_err(refused)?;
            drawn = Some(Instant::now());
        }
        match signals.try_recv() {
            Ok(Signal::SIGTSTP) => screen.stop().map_err(refused)?,
            Ok(Signal::SIGCONT) => screen.again().map_err(refused)?,
            Ok(ended) => {
                drop(screen);
                return Err(Failure::Ended(128_u8.saturating_add(ended as u8)));
            }
            Err(_) => {}
        }
        if !event::poll(TICK).map_err(refused)? {
            continue;
        }
        let leaving = match event::read().map_err(refused)? {
            Event::Key(key) if key.kind != KeyEventKind::Release => app.press(key),
            // Among them text that is pasted: it is no key.
            _ => None,
        };
        // Keys that came together are all taken before it is drawn.
        if !event::poll(Duration::ZERO).map_err(refused)? {
            drawn = None;
        }
        match leaving {
            Some(Leave::Quit) => return Ok(()),
            Some(Leave::Stop) => screen.stop().map_err(refused)?,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_terminal_is_given_back_before_a_panic_is_told() {
        let before = std::panic::take_hook();
        let order = Arc::new(Mutex::new(Vec::new()));
        let (gives, tells) = (order.clone(), order.clone());
        std::panic::set_hook(Box::new(move |_| tells.lock().unwrap().push("told")));
        let lost = Arc::new(AtomicBool::new(false));
        let known = lost.clone();
        before_panics(lost.clone(), move || {
            let ours = !known.load(Ordering::SeqCst);
            gives
                .lock()
                .unwrap()
                .push(if ours { "taken away" } else { "given back" });
        });
        assert!(!lost.load(Ordering::SeqCst));
        let ended = thread::spawn(|| panic!("a fault")).join();
        std::panic::set_hook(before);
        assert!(ended.is_err());
        assert_eq!(*order.lock().unwrap(), ["given back", "told"]);
    }
}
