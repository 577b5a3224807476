//! A reply and the future that it waits for: no FUSE thread ever waits.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use fuser::{
    Errno, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use super::errno::errno;
use super::sleeper::Sleeper;
use crate::tree::flood::{self, Kind};
use crate::tree::{Error, Result};

/// A reply that can say no.
pub(super) trait Refuse: Send + 'static {
    /// Answers with an error.
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyPoll,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// What was asked, for the log line.
pub(super) struct Asked {
    operation: &'static str,
    ino: u64,
    name: Option<OsString>,
    pid: u32,
    uid: u32,
    /// The path of the node, once it is needed.
    path: Option<String>,
}

impl Asked {
    /// A request about a node.
    pub(super) fn node(operation: &'static str, request: &Request, ino: INodeNo) -> Self {
        Asked {
            operation,
            ino: ino.0,
            name: None,
            pid: request.pid(),
            uid: request.uid(),
            path: None,
        }
    }

    /// The same with the node's path, for a line that people read.
    fn placed(mut self, path: impl FnOnce(u64) -> Option<String>) -> Self {
        self.path = path(self.ino);
        self
    }

    /// A request about a name in a folder.
    pub(super) fn name(operation: &'static str, request: &Request, parent: INodeNo, name: &OsStr) -> Self {
        Asked {
            operation,
            ino: parent.0,
            name: Some(name.to_owned()),
            pid: request.pid(),
            uid: request.uid(),
            path: None,
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} refused: {path}", self.operation)?,
            None => write!(f, "{} refused: inode {:#x}", self.operation, self.ino)?,
        }
        if let Some(name) = &self.name {
            // A name may hold anything; a line of the log is one line.
            write!(f, "/{}", name.to_string_lossy().escape_debug())?;
        }
        write!(f, " (pid {})", self.pid)
    }
}

/// Replies with what the future gives: at once if it is ready at once, else from a task.
///
/// A panic in the tree becomes EIO and a line in the log; the thread lives on.
pub(super) fn answer<R, T>(
    runtime: &Handle,
    reply: R,
    asked: Asked,
    path: impl FnOnce(u64) -> Option<String> + Send + 'static,
    future: impl Future<Output = Result<T>> + Send + 'static,
    accept: impl FnOnce(R, T) + Send + 'static,
) where
    R: Refuse,
    T: Send + 'static,
{
    let mut future = Guarded(Box::pin(future));
    let _entered = runtime.enter();
    let (sleeper, waker) = Sleeper::new(runtime);
    // Most requests are answered from memory: a task for each would cost more than the answer.
    match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(result) => finish(reply, asked, path, result, accept),
        Poll::Pending => sleeper.lay_down(Box::pin(async move {
            let result = future.await;
            finish(reply, asked, path, result, accept);
        })),
    }
}

/// Accepts or refuses.
fn finish<R: Refuse, T>(
    reply: R,
    asked: Asked,
    path: impl FnOnce(u64) -> Option<String>,
    result: Result<T>,
    accept: impl FnOnce(R, T),
) {
    match result {
        // The reply is dropped when `accept` panics, and fuser answers EIO for a dropped reply.
        Ok(value) => {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| accept(reply, value))) {
                tracing::error!("{asked}: a defect: {}", words(panic.as_ref()));
            }
        }
        Err(error) => {
            // Answered first: who asked need not wait for the log.
            reply.refuse(errno(&error));
            log(asked, path, &error);
        }
    }
}

/// A future whose panic is an error.
struct Guarded<T>(Pin<Box<dyn Future<Output = Result<T>> + Send>>);

impl<T> Future for Guarded<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(panic) => {
                let words = format!("a defect of distcifs: {}", words(panic.as_ref()));
                tracing::error!("{words}");
                Poll::Ready(Err(Error::Io(words.into())))
            }
        }
    }
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "a panic without words",
    }
}

/// One line for a refusal. What every program does all day long (looking for what is not there,
/// asking for attributes that nobody set) is not worth one.
fn log(asked: Asked, path: impl FnOnce(u64) -> Option<String>, error: &Error) {
    let everyday = match error {
        Error::NoData | Error::Range => true,
        Error::NotFound(_)
        | Error::System {
            errno: libc::ENOENT, ..
        } => {
            matches!(asked.operation, "lookup" | "getattr")
        }
        _ => false,
    };
    if everyday {
        tracing::trace!("{asked}: {error}");
        return;
    }
    if matches!(error, Error::WouldBlock(_) | Error::Unsupported(_)) {
        tracing::debug!("{asked}: {error}");
        return;
    }
    let kind = Kind {
        operation: asked.operation,
        errno: errno(error).into(),
        uid: asked.uid,
    };
    if !flood::has_line(kind) {
        return;
    }
    let asked = asked.placed(path);
    if matches!(error, Error::Io(_) | Error::TimedOut(_) | Error::Full(_)) {
        tracing::warn!("{asked}: {error}");
    } else {
        tracing::info!("{asked}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::*;

    /// Sends what the kernel would get.
    struct Told(Sender<i32>);

    impl Refuse for Told {
        fn refuse(self, errno: Errno) {
            self.0.send(errno.into()).unwrap();
        }
    }

    fn asked() -> Asked {
        Asked {
            operation: "test",
            ino: 1,
            name: None,
            pid: 1,
            uid: 1,
            path: None,
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    }

    /// Answers a future; an accepted value is told as it is.
    fn ask(
        runtime: &tokio::runtime::Runtime,
        future: impl Future<Output = Result<i32>> + Send + 'static,
    ) -> Receiver<i32> {
        let (sender, receiver) = channel();
        answer(
            runtime.handle(),
            Told(sender),
            asked(),
            |_| None,
            future,
            |told, value| told.0.send(value).unwrap(),
        );
        receiver
    }

    #[test]
    fn what_is_ready_is_answered_before_the_call_returns() {
        let runtime = runtime();
        assert_eq!(ask(&runtime, async { Ok(42) }).try_recv(), Ok(42));
        assert_eq!(
            ask(&runtime, async { Err(Error::NoData) }).try_recv(),
            Ok(libc::ENODATA)
        );
    }

    #[test]
    fn what_waits_is_answered_later_and_holds_nobody_up() {
        let runtime = runtime();
        let (go, wait) = tokio::sync::oneshot::channel();
        let receiver = ask(&runtime, async move { wait.await.map_err(|_| Error::NoData) });
        assert!(receiver.try_recv().is_err());
        go.send(7).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(7));
    }

    #[test]
    fn a_panic_is_an_input_output_error_now_or_later() {
        let runtime = runtime();
        assert_eq!(ask(&runtime, async { panic!("now") }).try_recv(), Ok(libc::EIO));
        let later = ask(&runtime, async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            panic!("later")
        });
        assert_eq!(later.recv_timeout(Duration::from_secs(10)), Ok(libc::EIO));
    }
}
