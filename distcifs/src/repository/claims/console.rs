//! What a claim appends to its console, as long as it holds.

use std::sync::Arc;

use tokio::sync::MutexGuard;

use super::{Claim, Claims};
use crate::repository::Result;
use crate::repository::consoles::{Appender, Fence};
use crate::repository::deadline::locked;
use crate::repository::model::ticket::TicketKey;
use crate::repository::store::Store;

impl Fence for Claim {
    fn admit(&self, store: &Store) -> Result<()> {
        self.check_in(store)
    }

    fn ticket(&self) -> &TicketKey {
        &self.key
    }
}

impl Fence for Arc<Claim> {
    fn admit(&self, store: &Store) -> Result<()> {
        self.check_in(store)
    }

    fn ticket(&self) -> &TicketKey {
        &self.key
    }
}

impl Claim {
    /// The console that it appends to, for one at a time.
    pub(crate) async fn console(&self) -> Result<MutexGuard<'_, Appender>> {
        locked(self.key.id.as_str(), &self.console).await
    }
}

impl Claims {
    /// Appends what a claimant writes.
    ///
    /// # Errors
    /// As [`Appender::append`](crate::repository::consoles::Appender::append).
    pub async fn append_output(self: &Arc<Self>, claim: &Arc<Claim>, bytes: &[u8]) -> Result<()> {
        let mut console = claim.console().await?;
        console.append(&self.consoles, claim, bytes).await?;
        // Lines that the store did not take are tried again, though no more output comes.
        if let Some(wait) = console.watch() {
            let (claims, claim) = (self.clone(), claim.clone());
            self.store.runtime.spawn(async move {
                let mut wait = wait;
                loop {
                    tokio::time::sleep(wait).await;
                    let rest = match claim.console().await {
                        Ok(mut console) => console.let_go(&claims.consoles, &claim).await,
                        // Somebody appends, and that takes long.
                        Err(_) => Some(wait),
                    };
                    match rest {
                        Some(rest) => wait = rest,
                        None => return,
                    }
                }
            });
        }
        Ok(())
    }
}
