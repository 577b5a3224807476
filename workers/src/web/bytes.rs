//! Files as bytes, whole or a range of them. They are read piece by piece, as fast as the client takes them, and no
//! thread waits for a client.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::answer::{FileKind, SANDBOX};
use super::places::Places;
use super::sight::Opened;
use crate::connections::Busy;

/// Bytes of one piece.
const PIECE_BYTES: usize = 64 << 10;

/// How long a piece may take to be read.
const PIECE_TIME: Duration = Duration::from_secs(15);

/// Who reads a file: where it takes the places for its pieces, what the file is of, and its turn to be sent.
pub struct Reader {
    /// Places for pieces that are read.
    pub pieces: Arc<Places>,
    /// As `places::of` says.
    pub of: String,
    /// Held until all is sent.
    pub _download: OwnedSemaphorePermit,
}

/// A body that others fill, piece by piece.
struct Filled {
    pieces: mpsc::Receiver<Bytes>,
    _busy: Option<Busy>,
}

/// A body and who fills it; dropping that ends it.
pub fn filled(busy: Option<Busy>) -> (mpsc::Sender<Bytes>, Body) {
    let (sender, pieces) = mpsc::channel(1);
    (sender, Body::new(Filled { pieces, _busy: busy }))
}

impl hyper::body::Body for Filled {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.get_mut().pieces.poll_recv(context);
        next.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// What part of a file of so many bytes is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// From the first up to the second byte, without that.
    Of(u64, u64),
    /// None that it has.
    Beyond,
}

/// Reads a `Range`. More than one range, and what is none, counts as the whole file, as HTTP has it.
pub fn part(range: Option<&str>, size: u64) -> Part {
    let Some((begin, end)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        return Part::Whole;
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // What no number holds lies beyond any file.
        true => Some(text.parse::<u64>().unwrap_or(u64::MAX)),
        false => None,
    };
    match (number(begin.trim()), number(end.trim())) {
        (Some(begin), _) if begin >= size && (end.trim().is_empty() || number(end.trim()) >= Some(begin)) => {
            Part::Beyond
        }
        (Some(begin), Some(last)) if last >= begin => Part::Of(begin, last.saturating_add(1).min(size)),
        (Some(begin), None) if end.trim().is_empty() => Part::Of(begin, size),
        (None, Some(0)) if begin.trim().is_empty() => Part::Beyond,
        (None, Some(last)) if begin.trim().is_empty() && size > 0 => Part::Of(size.saturating_sub(last), size),
        (None, Some(_)) if begin.trim().is_empty() => Part::Beyond,
        _ => Part::Whole,
    }
}

/// Answers with a file; `head` asks for no more than its headers.
pub fn send(opened: Opened, kind: &FileKind, asked: &HeaderMap, head: bool, hold: (Reader, Option<Busy>)) -> Response {
    let text = |name: header::HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    let size = opened.size;
    let fresh = text(header::IF_RANGE).is_none_or(|tag| tag == opened.tag);
    let part = match fresh {
        true => part(text(header::RANGE), size),
        false => Part::Whole,
    };
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == opened.tag)) {
        return marked(StatusCode::NOT_MODIFIED.into_response(), &opened.tag, kind);
    }
    let (status, begin, end) = match part {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Of(begin, end) => (StatusCode::PARTIAL_CONTENT, begin, end),
        Part::Beyond => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            insert(
                response.headers_mut(),
                header::CONTENT_RANGE,
                &format!("bytes */{size}"),
            );
            return response;
        }
    };
    let tag = opened.tag.clone();
    let body = match head {
        true => Body::empty(),
        false => {
            let (reader, busy) = hold;
            let (sender, body) = filled(busy);
            tokio::spawn(read(opened.file, begin, end, sender, reader));
            body
        }
    };
    let mut response = marked((status, body).into_response(), &tag, kind);
    let headers = response.headers_mut();
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {begin}-{}/{size}", end.saturating_sub(1));
        insert(headers, header::CONTENT_RANGE, &range);
    }
    insert(headers, header::CONTENT_LENGTH, &(end - begin).to_string());
    response
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What every answer about a file says.
fn marked(mut response: Response, tag: &str, kind: &FileKind) -> Response {
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_TYPE, kind.mime);
    insert(headers, header::CONTENT_SECURITY_POLICY, SANDBOX);
    insert(headers, header::ACCEPT_RANGES, "bytes");
    if !kind.grows {
        insert(headers, header::ETAG, tag);
    }
    let how = if kind.keep { "attachment" } else { "inline" };
    let shown = format!("{how}; filename*=UTF-8''{}", kind.name);
    insert(headers, header::CONTENT_DISPOSITION, &shown);
    response
}

/// Reads a part of a file and hands it on, until it is over or nobody takes it. What is cut meanwhile ends early, which
/// the client sees by the length that it was told.
async fn read(file: File, mut at: u64, end: u64, to: mpsc::Sender<Bytes>, reader: Reader) {
    let file = Arc::new(file);
    while at < end {
        let (from, source) = (at, file.clone());
        let want = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let Some(place) = reader.pieces.take(&reader.of, PIECE_TIME).await else {
            return;
        };
        let reading = tokio::task::spawn_blocking(move || {
            // A thread that hangs keeps its place.
            let _place = place;
            let mut piece = vec![0; want];
            let count = source.read_at(&mut piece, from)?;
            piece.truncate(count);
            Ok::<_, std::io::Error>(piece)
        });
        let Ok(Ok(Ok(piece))) = tokio::time::timeout(PIECE_TIME, reading).await else {
            return;
        };
        at += piece.len() as u64;
        if piece.is_empty() || to.send(piece.into()).await.is_err() {
            return;
        }
    }
}

/// How a browser is told of a file by its name. What can do more than be shown is kept.
pub fn kind(name: &std::ffi::OsStr, encoded: String) -> FileKind {
    let name = name.to_string_lossy().to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let mime = match extension {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "txt" | "log" | "md" | "rst" | "csv" | "tsv" | "json" | "xml" | "yml" | "yaml" | "toml" | "ini" | "conf"
        | "diff" | "patch" | "c" | "h" | "cc" | "cpp" | "rs" | "go" | "py" | "sh" | "js" | "ts" | "java" | "sum"
        | "sha256" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    FileKind {
        mime,
        keep: mime == "application/octet-stream",
        name: encoded,
        grows: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, size, want) in [
            ("bytes=0-", 10, Part::Of(0, 10)),
            ("bytes=2-4", 10, Part::Of(2, 5)),
            ("bytes=2-400", 10, Part::Of(2, 10)),
            ("bytes=-3", 10, Part::Of(7, 10)),
            ("bytes=-30", 10, Part::Of(0, 10)),
            ("bytes=-0", 10, Part::Beyond),
            ("bytes=10-", 10, Part::Beyond),
            ("bytes=0-", 0, Part::Beyond),
            ("bytes=-1", 0, Part::Beyond),
            ("bytes=99999999999999999999-", 10, Part::Beyond),
            ("bytes=0-99999999999999999999", 10, Part::Of(0, 10)),
            ("bytes=4-2", 10, Part::Whole),
            ("bytes=0-1,3-4", 10, Part::Whole),
            ("bytes=a-b", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("lines=0-1", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
            ("", 10, Part::Whole),
        ] {
            assert_eq!(part(Some(range), size), want, "{range} of {size}");
        }
        assert_eq!(part(None, 10), Part::Whole);
    }

    #[test]
    fn what_is_not_known_is_kept_and_not_guessed() {
        for (name, mime, keep) in [
            ("report.HTML", "text/html; charset=utf-8", false),
            ("a.svg", "image/svg+xml", false),
            ("app.js", "text/plain; charset=utf-8", false),
            ("doc.pdf", "application/octet-stream", true),
            ("page.xhtml", "application/octet-stream", true),
            ("x.html.gz", "application/octet-stream", true),
            ("noextension", "application/octet-stream", true),
        ] {
            let kind = kind(std::ffi::OsStr::new(name), name.to_owned());
            assert_eq!((kind.mime, kind.keep), (mime, keep), "{name}");
        }
    }
}
