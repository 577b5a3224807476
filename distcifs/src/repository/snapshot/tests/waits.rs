//! Whoever reads what others are reading does not wait for each of them.

use tokio::time::Instant;

use super::*;
use crate::repository::deadline::STORE_TIMEOUT;
use crate::repository::work::join_all;
use crate::storage::around::{Around, Asked, Wrapped};

/// Gives each read up after its bound, as a store does that is cut off.
struct Away;

impl Around for Away {
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        matches!(asked, Asked::Read(_))
    }

    fn pass<'a, T: Send + 'a>(&'a self, reads: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        if !reads {
            return call;
        }
        Box::pin(async {
            tokio::time::sleep(STORE_TIMEOUT).await;
            Err(storage::Error::Unavailable {
                what: "read".into(),
                why: "a cut network".into(),
            })
        })
    }
}

/// Promise 5: "While the coordinator or store is away, nothing hangs for more than 10 s". Who comes while another
/// one reads, and he fails, reads by himself once more at most.
#[tokio::test(start_paused = true)]
async fn readers_of_the_same_do_not_wait_one_after_another() {
    let browser = Browser::new(Arc::new(Wrapped::around(memory(), Away)));
    let (browser, digest) = (&browser, Digest::of(b"away"));
    let entry = Entry {
        name: b"file"[..].into(),
        meta: Meta::default(),
        kind: Kind::file(vec![Segment::Data { digest, length: 7 }].into()),
        link: None,
    };
    let entry = &entry;
    let took = |begun: Instant, failed: bool| {
        assert!(failed, "it is away");
        assert!(begun.elapsed() <= 2 * STORE_TIMEOUT, "{:?}", begun.elapsed());
    };
    let listings = join_all((0..8).map(|_| async move {
        let begun = Instant::now();
        took(begun, browser.folder(digest).await.is_err());
    }));
    listings.await;
    let chunks = join_all((0..8).map(|_| async move {
        let begun = Instant::now();
        took(begun, browser.read_file(entry, 0, 7).await.is_err());
    }));
    chunks.await;
}
