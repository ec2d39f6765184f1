//! Decisions about the cluster: taken by the active controller on the pure image, committed by the quorum, and read by
//! everybody from a snapshot pointer.
//!
//! Invariant: a decision stands on all that was committed before it. They are taken one at a time, by a node that leads the
//! quorum and has applied everything from before its term; a record is committed before it is applied, and applied before
//! anybody is told of it.

use std::sync::Arc;

use state::metadata::{Decision, Image};
use wire::Millis;

use crate::quorum::{NotCommitted, Quorum, QuorumStatus};

/// The topic that holds the cluster's metadata, in one partition.
pub(crate) const METADATA_TOPIC: &str = "__cluster_metadata";

/// The image, and the quorum that it follows.
pub(crate) struct Metadata {
    quorum: Arc<Quorum>,
    /// Held through a commit, by the task that carries it out.
    commits: Arc<tokio::sync::Mutex<()>>,
}

impl Metadata {
    pub(crate) fn new(quorum: Arc<Quorum>) -> Self {
        Metadata { quorum, commits: Arc::default() }
    }

    /// The cluster as of now.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.quorum.image()
    }

    /// The quorum behind it.
    pub(crate) fn quorum(&self) -> &Arc<Quorum> {
        &self.quorum
    }

    /// Decides on the current image, has the decision committed and applied, and returns its reply. A commit that was
    /// begun is carried out also when nobody waits for it any more.
    pub(crate) async fn commit<R>(
        &self,
        now: Millis,
        decide: impl FnOnce(&Image) -> Decision<R>,
    ) -> Result<R, NotCommitted> {
        let one_at_a_time = Arc::clone(&self.commits).lock_owned().await;
        let QuorumStatus { is_active: true, term, .. } = self.quorum.status() else {
            return Err(NotCommitted::NotController);
        };
        let Decision { records, reply } = decide(&self.quorum.image());
        if records.is_empty() {
            return Ok(reply);
        }
        let quorum = Arc::clone(&self.quorum);
        let carried_out = tokio::spawn(async move {
            let _one_at_a_time = one_at_a_time;
            quorum.propose(&records, now, term).await
        });
        carried_out.await.expect("a commit does not panic")?;
        Ok(reply)
    }

    /// As [`Metadata::commit`], for decisions that may be refused as a whole.
    pub(crate) async fn try_commit<R, E>(
        &self,
        now: Millis,
        decide: impl FnOnce(&Image) -> Result<Decision<R>, E>,
    ) -> Result<Result<R, E>, NotCommitted> {
        let decide = |image: &Image| match decide(image) {
            Ok(decision) => Decision { records: decision.records, reply: Ok(decision.reply) },
            Err(refusal) => Decision { records: Vec::new(), reply: Err(refusal) },
        };
        self.commit(now, decide).await
    }
}
