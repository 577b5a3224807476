//! Calls of the system that may stand for as long as a stranger likes, each on a thread apart.
//!
//! Who writes a file, or reads it directly, from or into memory that never answers (userfaultfd, a map of a FUSE of
//! his own) stands in the kernel with that file's lock. Whoever cuts or removes the file then stands as well, and
//! nothing but the end of those processes frees him. So such calls have places: few for each owner ([`Owners`]), whose
//! own they are for as long as they stand. Where the disk is the bound they have turns as well ([`Apart`]), some for all
//! together, of which one that stands takes none.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::core::lock;
use super::deadline::Deadline;
use super::{Error, Result, flood};

/// Owners that are remembered before those who wait for nothing are looked for.
const OWNERS_KEPT: usize = 64;

/// Most threads of such calls.
const THREADS_MAX: usize = 4096;

/// Places of owners, so many for each: what one of them does takes none of another's.
#[derive(Debug)]
pub(crate) struct Owners {
    of_one: usize,
    places: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

impl Owners {
    /// So many places for each.
    pub(crate) fn new(of_one: usize) -> Owners {
        Owners {
            of_one,
            places: Mutex::default(),
        }
    }

    /// The places of one owner.
    fn of(&self, owner: u32) -> Arc<Semaphore> {
        let mut owners = lock(&self.places);
        if owners.len() >= OWNERS_KEPT {
            // Whoever has a place or waits for one holds it, too.
            owners.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let places = owners.entry(owner);
        places.or_insert_with(|| Arc::new(Semaphore::new(self.of_one))).clone()
    }

    /// A place of this owner's, for as long as it is held. `what` names the job and the file.
    ///
    /// # Errors
    /// `Busy` if there is none by then.
    pub(crate) async fn place(
        &self,
        owner: u32,
        by: Deadline,
        what: impl Fn() -> String,
    ) -> Result<OwnedSemaphorePermit> {
        let place = by.wait(self.of(owner).acquire_owned()).await;
        place.and_then(|place| place.ok()).ok_or_else(|| {
            let (what, of_one) = (what(), self.of_one);
            Error::Busy(format!(
                "{what}: {of_one} calls on files of this owner stand already: end the processes that use them"
            ))
        })
    }

    /// Begins something of this owner on a thread apart, if he has a place left; the receiver ends with it.
    pub(crate) fn begin(&self, owner: u32, act: impl FnOnce() + Send + 'static) -> Option<Receiver<()>> {
        let place = self.of(owner).try_acquire_owned().ok()?;
        let (running, over) = channel();
        let begun = start(place, move || {
            let _running = running;
            act();
        });
        begun.ok().map(|()| over)
    }
}

/// Calls of one kind apart, few of them at once.
#[derive(Debug)]
pub(crate) struct Apart {
    /// Those of all; a call that stands has given its back.
    pub(crate) turns: Arc<Semaphore>,
    /// How many turns there are.
    at_once: usize,
    /// What each owner has, whether it stands or not.
    pub(crate) owners: Owners,
    /// From when on a call is said to stand.
    stands: Duration,
}

impl Apart {
    /// So many calls at once, so many of them of one owner; who takes longer than this stands.
    pub(crate) fn new(at_once: usize, of_one: usize, stands: Duration) -> Apart {
        Apart {
            turns: Arc::new(Semaphore::new(at_once)),
            at_once,
            owners: Owners::new(of_one),
            stands,
        }
    }

    /// Does something on a thread apart, for files of this owner; what it gives after nobody waits for it any
    /// more is for `late`. `what` names the job and the file.
    ///
    /// # Errors
    /// `Busy` if this owner's calls stand, all of them, for so long, or those of others take all turns; `TimedOut` if this one does: it may still be
    /// done, when the lock is free. `System` with EAGAIN if there is no thread for it: it was not begun.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        owner: u32,
        limit: Duration,
        what: impl Fn() -> String + Send + Sync,
        act: impl FnOnce() -> T + Send + 'static,
        late: impl FnOnce(T) + Send + 'static,
    ) -> Result<T> {
        let deadline = Deadline::after(limit);
        let place = self.owners.place(owner, deadline, &what).await?;
        let turn = deadline.wait(self.turns.clone().acquire_owned()).await;
        let turn = turn
            .and_then(|turn| turn.ok())
            .ok_or_else(|| self.no_turn(&what(), limit))?;
        let (done, mut result) = oneshot::channel();
        start(place, move || {
            let given = catch_unwind(AssertUnwindSafe(act));
            // Nobody waits for one that comes back, so that it is for `late` on this thread.
            if let Err(mut unheard) = done.send(Answer(Some((given, late)))) {
                unheard.be_late();
            }
        })?;
        let soon = Deadline::after(self.stands.min(limit));
        let answer = match soon.wait(&mut result).await {
            Some(answer) => Some(answer),
            None => {
                drop(turn);
                tell(owner, &what());
                deadline.wait(result).await
            }
        };
        let seconds = limit.as_secs();
        match answer.map(|answer| answer.map(Answer::heard)) {
            Some(Ok(Some(Ok(done)))) => Ok(done),
            Some(_) => Err(Error::Io(format!("{}: a defect of distcifs", what()).into())),
            None => Err(Error::TimedOut(
                format!(
                    "{}: somebody has held it for {seconds} s: end the processes that use it",
                    what()
                )
                .into(),
            )),
        }
    }

    /// Says that others have all turns: nothing of this owner's is in the way.
    fn no_turn(&self, what: &str, limit: Duration) -> Error {
        let (at_once, seconds) = (self.at_once, limit.as_secs());
        Error::Busy(format!(
            "{what}: not begun within {seconds} s, as {at_once} calls of all owners are under way: the disk is busy, try again"
        ))
    }
}

/// Threads for such calls, apart from those of the runtime: more than all places. An idle one is used again.
static THREADS: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_current_thread()
        .thread_name("apart")
        .max_blocking_threads(THREADS_MAX)
        .build()
});

/// What a call gave, on its way to whoever waits for it; and what is done with it if nobody takes it.
struct Answer<T: Send + 'static, L: FnOnce(T) + Send + 'static>(Option<(std::thread::Result<T>, L)>);

impl<T: Send + 'static, L: FnOnce(T) + Send + 'static> Answer<T, L> {
    /// Somebody takes it.
    fn heard(mut self) -> Option<std::thread::Result<T>> {
        self.0.take().map(|(given, _)| given)
    }

    /// Nobody does.
    fn be_late(&mut self) {
        if let Some((Ok(given), late)) = self.0.take() {
            late(given);
        }
    }
}

impl<T: Send + 'static, L: FnOnce(T) + Send + 'static> Drop for Answer<T, L> {
    fn drop(&mut self) {
        // Whoever waited for it went when it had come already; this thread may be one that must not stand.
        if let (Some((Ok(given), late)), Ok(threads)) = (self.0.take(), THREADS.as_ref()) {
            let on_thread = move |job: Job| drop(threads.spawn_blocking(job));
            if start_on(on_thread, move || late(given)).is_err() {
                tracing::warn!("what a call gave that nobody waits for is not given back: there is no thread for that");
            }
        }
    }
}

/// Something that is done on a thread.
type Job = Box<dyn FnOnce() + Send>;

/// Starts something on such a thread, that has this place until its end.
fn start(place: OwnedSemaphorePermit, act: impl FnOnce() + Send + 'static) -> Result<()> {
    let threads = THREADS.as_ref().map_err(|error| Error::System {
        what: "threads for calls that may stand".to_owned(),
        errno: error.raw_os_error().unwrap_or(libc::EAGAIN),
    })?;
    #[cfg(test)]
    let clock = HeldClock::new();
    let on_thread = |job: Job| drop(threads.spawn_blocking(job));
    start_on(on_thread, move || {
        act();
        drop(place);
        #[cfg(test)]
        drop(clock);
    })
}

/// Starts something by `spawn`, which panics where the system gives no thread, and may have put it in a queue even so.
///
/// # Errors
/// `System` with EAGAIN then: it is not done, and all that it held is free.
fn start_on(spawn: impl FnOnce(Job), act: impl FnOnce() + Send + 'static) -> Result<()> {
    let job = Arc::new(Mutex::new(Some(act)));
    let queued = job.clone();
    let run = move || {
        let act = lock(&queued).take();
        if let Some(act) = act {
            act();
        }
    };
    let started = catch_unwind(AssertUnwindSafe(|| spawn(Box::new(run))));
    started.map_err(|_| {
        let taken_back = lock(&job).take();
        drop(taken_back);
        Error::System {
            what: "a thread for a call that may stand: the system has none (limits of processes or memory)".to_owned(),
            errno: libc::EAGAIN,
        }
    })
}

/// Says that a call stands.
fn tell(owner: u32, what: &str) {
    if flood::has_line_of("a call stands", owner) {
        tracing::warn!(
            owner,
            "{what}: a call stands, as somebody holds the kernel's lock of it. doc/security.md, 'Memory that never \
             answers', says how to end that"
        );
    }
}

/// Keeps a paused clock of a test where it is while a thread works, as tokio does for threads of its own.
#[cfg(test)]
pub(crate) struct HeldClock(
    #[expect(dead_code, reason = "dropping it lets the clock go on")] std::sync::mpsc::Sender<()>,
);

#[cfg(test)]
impl HeldClock {
    pub(crate) fn new() -> Option<HeldClock> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let (held, over) = channel();
        runtime.spawn_blocking(move || over.recv());
        Some(HeldClock(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(50);

    fn what() -> String {
        "job a, file x".to_owned()
    }

    /// One call, which stands until the sender goes.
    fn standing() -> (std::sync::mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (go, wait) = channel::<()>();
        (go, move || assert!(wait.recv().is_err()))
    }

    /// "A stuck call uses up its owner's places only": those of all together come back, so that the next owner finds
    /// one, and the owner is told so by a deadline.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_that_stands_has_places_of_its_owner_alone() {
        let apart = Apart::new(2, 2, SOON);
        let (first, one) = standing();
        let (second, two) = standing();
        let (late, told) = channel();
        let (a, b) = tokio::join!(
            apart.run(7, 4 * SOON, what, one, move |()| late.send(()).unwrap()),
            apart.run(7, 4 * SOON, what, two, drop),
        );
        for stood in [a, b] {
            let error = stood.unwrap_err();
            assert!(matches!(error, Error::TimedOut(_)), "{error}");
            assert!(error.to_string().contains("job a, file x"), "{error}");
        }
        assert_eq!(apart.turns.available_permits(), 2);
        let refused = apart.run(7, SOON, what, || 1, drop).await;
        assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
        assert!(apart.owners.begin(7, || ()).is_none());
        assert_eq!(apart.run(8, NEVER, what, || 8, drop).await.unwrap(), 8);
        drop((first, second));
        told.recv().unwrap();
        assert_eq!(apart.run(7, NEVER, what, || 7, drop).await.unwrap(), 7);
    }

    /// Who waits in vain for a turn of all is told so, and not that calls of his own stand.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_lack_of_turns_is_not_blamed_on_the_owner() {
        let apart = Apart::new(1, 4, NEVER);
        let (first, one) = standing();
        let mut other = Box::pin(apart.run(8, NEVER, what, one, drop));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(other.as_mut().poll(&mut context).is_pending());
        let refused = apart.run(7, SOON, what, || 1, drop).await.unwrap_err();
        assert!(matches!(refused, Error::Busy(_)), "{refused}");
        let words = refused.to_string();
        assert!(
            words.contains("job a, file x") && words.contains("all owners"),
            "{words}"
        );
        assert!(!words.contains("this owner"), "{words}");
        drop(first);
        other.await.unwrap();
        assert_eq!(apart.run(7, NEVER, what, || 7, drop).await.unwrap(), 7);
    }

    /// A defect in such work is an error of that call, and its place is free.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_an_error_and_gives_the_place_back() {
        let apart = Apart::new(1, 1, SOON);
        for _ in 0..3 {
            let done: Result<()> = apart.run(7, NEVER, what, || panic!("a defect of the test"), drop).await;
            assert!(matches!(done, Err(Error::Io(_))), "{done:?}");
        }
        // The place is given back a moment after the answer.
        let begun = std::time::Instant::now();
        let over = loop {
            match apart.owners.begin(7, || ()) {
                Some(over) => break over,
                None => assert!(begun.elapsed() < NEVER, "its place stays taken"),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert!(over.recv().is_err());
    }

    /// "An answer that comes when nobody waits any more is given back": also one that was on its way already.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_that_was_on_its_way_is_given_back() {
        let apart = Apart::new(1, 1, SOON);
        let (go, wait) = channel::<()>();
        let (late, told) = channel();
        let act = move || {
            assert!(wait.recv().is_err());
            7
        };
        let mut asked = Box::pin(apart.run(7, NEVER, what, act, move |given| late.send(given).unwrap()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        drop(go);
        // Its place is given back after the answer.
        drop(apart.owners.place(7, Deadline::after(NEVER), what).await.unwrap());
        drop(asked);
        assert_eq!(told.recv(), Ok(7));
    }

    /// "Where the system gives no thread the call is an error": nothing that it held stays taken, and it is not done
    /// later.
    #[tokio::test]
    async fn a_call_without_a_thread_is_an_error_and_is_not_done_later() {
        let apart = Apart::new(1, 1, SOON);
        let place = apart.owners.place(7, Deadline::after(SOON), what).await.unwrap();
        let (done, told) = channel();
        let mut queue = None;
        let spawn = |job: Job| {
            queue = Some(job);
            panic!("the system gives no thread to the test");
        };
        let refused = start_on(spawn, move || {
            done.send(()).unwrap();
            drop(place);
        });
        assert!(
            matches!(
                refused,
                Err(Error::System {
                    errno: libc::EAGAIN,
                    ..
                })
            ),
            "{refused:?}"
        );
        assert_eq!(apart.owners.of(7).available_permits(), 1);
        queue.unwrap()();
        assert!(told.recv().is_err());
    }
}
