//! What a claim appends to its console, as long as it holds.

use std::sync::Arc;

use super::Claim;
use crate::repository::consoles::Fence;
use crate::repository::model::ticket::TicketKey;
use crate::repository::{Repository, Result};

impl Fence for Claim {
    fn admit(&self, repository: &Repository) -> Result<()> {
        repository.check_claim(self)
    }

    fn ticket(&self) -> &TicketKey {
        &self.key
    }
}

impl Fence for Arc<Claim> {
    fn admit(&self, repository: &Repository) -> Result<()> {
        repository.check_claim(self)
    }

    fn ticket(&self) -> &TicketKey {
        &self.key
    }
}

impl Repository {
    /// Appends what a claimant writes.
    ///
    /// # Errors
    /// As [`Appender::append`](crate::repository::consoles::Appender::append).
    pub async fn append_output(self: &Arc<Self>, claim: &Arc<Claim>, bytes: &[u8]) -> Result<()> {
        let mut console = claim.console.lock().await;
        console.append(self, claim, bytes).await?;
        // Lines that the store did not take are tried again, though no more output comes.
        if let Some(wait) = console.watch() {
            let (repository, claim) = (self.clone(), claim.clone());
            self.runtime.spawn(async move {
                let mut wait = wait;
                loop {
                    tokio::time::sleep(wait).await;
                    match claim.console.lock().await.let_go(&repository, &claim).await {
                        Some(rest) => wait = rest,
                        None => return,
                    }
                }
            });
        }
        Ok(())
    }
}
