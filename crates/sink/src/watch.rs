//! What a run looks at besides its records: whether somebody has paused a line, and how far the logs go for those who want to see it.
//!
//! Reads only. What cannot be had stays as it was, and is told once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use client::{Admin, Cluster, Environment, Error, Lag, OffsetSpec, Options};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::meter::{Left, Meter};
use crate::pause;
use crate::run::RunError;
use crate::settings::{Line, Settings};

/// How often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The lines of a run, watched.
pub(crate) struct Watch {
    settings: Settings,
    cluster: Cluster,
    meter: Meter,
    paused: Vec<(Line, watch::Sender<bool>)>,
}

impl Watch {
    /// Begins with whether each line is paused now: one that is reads nothing.
    pub(crate) async fn begin(
        settings: &Settings,
        options: &Options,
        environment: &Arc<dyn Environment>,
        meter: Meter,
    ) -> Result<Self, RunError> {
        let mut options = options.clone();
        (options.group_id, options.group_instance_id, options.transactional_id) = (None, None, None);
        let cluster = Cluster::new(options, Arc::clone(environment))?;
        let admin = Admin::new(cluster.clone());
        let mut paused = Vec::new();
        for line in settings.lines() {
            let is_paused = pause::is_paused(&admin, settings, line).await?;
            if is_paused {
                tell(line, is_paused);
            }
            meter.paused(line, is_paused);
            paused.push((line, watch::channel(is_paused).0));
        }
        Ok(Self { settings: settings.clone(), cluster, meter, paused })
    }

    /// Whether a line is paused, as it comes and goes.
    pub(crate) fn paused(&self, line: Line) -> watch::Receiver<bool> {
        let sender = self.paused.iter().find(|(of, _)| *of == line).map(|(_, sender)| sender);
        sender.expect("each line is watched").subscribe()
    }

    /// Looks again and again, and never ends.
    pub(crate) async fn look(&self) -> Infallible {
        let admin = Admin::new(self.cluster.clone());
        let mut was_had = true;
        loop {
            sleep(LOOK_EVERY).await;
            match self.look_at_pauses(&admin).await {
                Ok(()) => was_had = true,
                Err(error) if was_had => {
                    was_had = false;
                    tracing::warn!(%error, "whether the sink is paused is not to be had now, it is as it was");
                }
                Err(_) => {}
            }
            if let Err(error) = self.look_at_ends(&admin).await {
                tracing::debug!(%error, "how much is left is not to be had now");
            }
        }
    }

    async fn look_at_pauses(&self, admin: &Admin) -> Result<(), Error> {
        for (line, paused) in &self.paused {
            let is_paused = pause::is_paused(admin, &self.settings, *line).await?;
            let was_paused = paused.send_replace(is_paused);
            if is_paused != was_paused {
                tell(*line, is_paused);
                self.meter.paused(*line, is_paused);
            }
        }
        Ok(())
    }

    /// One question to each broker, of the partitions that this instance has.
    async fn look_at_ends(&self, admin: &Admin) -> Result<(), Error> {
        for (line, _) in &self.paused {
            let had = self.meter.had(*line);
            let asked: Vec<_> = had
                .iter()
                .map(|(name, standing)| (name.clone(), OffsetSpec::Unread(standing.committed)))
                .collect();
            if asked.is_empty() {
                continue;
            }
            let listed = admin.list_offsets(&asked, self.cluster.options().isolation_level).await?;
            for (name, listed) in listed {
                // One that has no leader now has one later.
                let Ok(listed) = listed else { continue };
                let Some((end, standing)) = listed.offset.zip(had.get(&name)) else { continue };
                let lag = Lag::of(standing.committed, standing.committed, end, listed.unread);
                self.meter.left(*line, &name, Left { end, lag: lag.records, lag_ms: lag.ms });
            }
        }
        Ok(())
    }
}

fn tell(line: Line, is_paused: bool) {
    match is_paused {
        true => tracing::warn!(%line, "paused, nothing is read: `ottla sink resume` lets it go on"),
        false => tracing::warn!(%line, "it was paused, and goes on"),
    }
}
