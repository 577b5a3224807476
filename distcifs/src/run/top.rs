//! `distcifs top`: the CI at a glance, by the files of a mounted tree and nothing else.

use std::io::IsTerminal;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::is_cluster;
use super::pages::print;
use super::status::{as_json, at_hand};
use super::{Failure, Outcome};
use crate::cli;

#[cfg(feature = "top")]
mod act;
#[cfg(feature = "top")]
mod app;
#[cfg(feature = "top")]
mod draw;
mod facts;
#[cfg(feature = "top")]
mod follow;
mod late;
mod page;
#[cfg_attr(
    not(any(feature = "top", test)),
    expect(dead_code, reason = "events are for the screen")
)]
mod read;
#[cfg(feature = "top")]
mod screen;
#[cfg_attr(
    not(any(feature = "top", test)),
    expect(dead_code, reason = "only the screen writes")
)]
mod sight;

use read::{Reader, View};
use sight::{Fault, Sight};

/// How long `--once` looks at most: a tree of 10,000 jobs takes some seconds.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// How long the tree may take for its last answer then.
const ANSWER_TIME: Duration = Duration::from_secs(12);

/// Shows a tree: on a terminal until somebody quits, else once.
pub(super) fn top(arguments: &cli::Top) -> Outcome {
    let place = match &arguments.mountpoint {
        Some(place) => place.clone(),
        None => at_hand()?,
    };
    if is_cluster(&place) {
        let why = format!("{}: top looks at a mount of it: distcifs mount --help", place.display());
        return Err(Failure::Usage(why));
    }
    let place = std::path::absolute(&place).map_err(|error| Failure::Refused(error.to_string()))?;
    let sight = Sight::new(place);
    if arguments.once || arguments.json || !std::io::stdout().is_terminal() {
        return once(sight, arguments.json);
    }
    on_screen(sight)
}

#[cfg(feature = "top")]
fn on_screen(sight: Sight) -> Outcome {
    match screen::unfit() {
        Some(why) => Err(Failure::Refused(why.into())),
        None => screen::show(sight),
    }
}

#[cfg(not(feature = "top"))]
fn on_screen(_: Sight) -> Outcome {
    let why = "this program was built without its screen (cargo's feature top): use distcifs top --once";
    Err(Failure::Refused(why.into()))
}

/// Prints what there is.
fn once(sight: Sight, json: bool) -> Outcome {
    let view = looked(sight)?;
    if !json {
        return print(page::text(&view).as_bytes());
    }
    let status: String = view
        .status
        .iter()
        .map(|(key, value)| format!("{key} {value}\n"))
        .collect();
    print(format!("{:#}\n", page::json(&view, &as_json(&status))).as_bytes())
}

/// Looks at everything, on a thread of its own: a tree that hangs must not hold us up.
fn looked(sight: Sight) -> Result<View, Failure> {
    let place = sight.root().display().to_string();
    let (sender, receiver) = channel();
    let look = move || {
        let view = Reader::new(sight).once(Instant::now() + LOOK_TIME);
        // Nobody listens any more when it took too long.
        sender.send(view).ok();
    };
    let begun = thread::Builder::new().name("reader".into()).spawn(look);
    begun.map_err(|error| Failure::Refused(format!("threads: {error}")))?;
    let time = LOOK_TIME + ANSWER_TIME;
    match receiver.recv_timeout(time) {
        Ok(Ok(view)) => Ok(view),
        Ok(Err(Fault::Away(why))) => Err(Failure::Refused(format!("{why}; is {place} a mount?"))),
        Ok(Err(fault @ (Fault::Closed | Fault::Odd(_)))) => Err(Failure::Refused(format!("{place}: {fault}"))),
        Ok(Err(Fault::Absent)) => Err(Failure::Refused(format!("{place}: no file status; is it a mount?"))),
        Err(_) => Err(Failure::Refused(format!(
            "{place}: the tree does not answer since {} s",
            time.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mount_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let look = || looked(Sight::new(folder.path().to_owned())).unwrap_err().to_string();
        assert!(
            look().contains(folder.path().to_str().unwrap()) && look().ends_with("a mount?"),
            "{}",
            look()
        );
        std::fs::create_dir(folder.path().join("jobs")).unwrap();
        assert!(look().contains("no file status"), "{}", look());
    }
}
