//! Client quotas: what clients take is measured, and who takes too much is held back.
//!
//! A response leaves at once and says for how long its client is to hold back; the connection is not read from meanwhile
//! (KIP-219). A fetch over its quota is answered empty, a change of topics over its quota is refused where the client
//! understands that (KIP-599). Invariants: where no quota is set, a request costs one load of an atomic; what brokers do among
//! themselves is never held back; the meters are bounded, and forgotten when they have nothing to say.

mod meter;

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use state::metadata::{ClientQuota, Image, QuotaKey, QuotaSharing};
use tokio::time::Instant;
use wire::{ApiKey, Millis, Response, Str};

use crate::authorize::{self, Operation};
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::topics::TopicError;

use meter::{Bucket, Meter};
pub(crate) use meter::{Rate, Windows};

/// Meters of one kind that there may be at the same time. Those who come when all are taken share one.
const METERS_MAX: usize = 20_000;
/// Brokers ask for partitions of transactions, on behalf of no client, from this version of AddPartitionsToTxn on.
const VERIFYING_VERSION_MIN: i16 = 4;
/// So many are not worth looking through.
const METERS_KEPT: usize = 1_024;

/// What limits the clients of a broker.
#[derive(Default)]
pub(crate) struct Quotas {
    /// Rises whenever quotas of users or clients change; zero while there are none.
    epoch: AtomicU64,
    changes: AtomicU64,
    of_ips: ArcSwap<IpQuotas>,
    rates: Meters<Rate>,
    buckets: Meters<Bucket>,
    /// Connections that were accepted.
    accepted: Mutex<Rate>,
}

#[derive(Default)]
struct IpQuotas {
    default: Option<f64>,
    named: BTreeMap<IpAddr, f64>,
}

/// Meters by whom they measure.
struct Meters<M> {
    hasher: RandomState,
    state: Mutex<MetersState<M>>,
}

struct MetersState<M> {
    by_owner: HashMap<u64, Arc<Mutex<M>>>,
    swept: Millis,
}

impl<M> Default for Meters<M> {
    fn default() -> Self {
        let state = MetersState { by_owner: HashMap::new(), swept: Millis(0) };
        Meters { hasher: RandomState::new(), state: Mutex::new(state) }
    }
}

impl<M: Meter> Meters<M> {
    /// The owner's meter. Owners are told apart by a hash that nobody can foresee: their names may be long, and are theirs
    /// to choose.
    fn of(&self, kind: QuotaKey, owner: impl Hash, windows: Windows, now: Millis) -> Arc<Mutex<M>> {
        let owner = self.hasher.hash_one((kind, owner));
        let mut state = self.state.lock();
        let MetersState { by_owner, swept } = &mut *state;
        if let Some(meter) = by_owner.get(&owner) {
            return Arc::clone(meter);
        }
        // Not more often: whoever has many names must not make work of each.
        let is_due = now.0 - swept.0 >= i64::try_from(windows.length.as_millis()).unwrap_or(i64::MAX);
        if by_owner.len() >= METERS_KEPT && is_due {
            // Whoever holds one goes on with it.
            by_owner.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.lock().is_idle(windows, now));
            *swept = now;
        }
        // Those for whom there is no room share one for each kind: what is measured must be comparable.
        let owner = if by_owner.len() >= METERS_MAX { self.hasher.hash_one(kind) } else { owner };
        Arc::clone(by_owner.entry(owner).or_default())
    }

    fn clear(&self) {
        self.state.lock().by_owner = HashMap::new();
    }
}

/// A limit, and what is measured against it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    limit: f64,
    rate: Arc<Mutex<Rate>>,
}

/// The quotas of a connection's client, so that they are looked up once.
#[derive(Debug, Default)]
pub(crate) struct QuotaCache(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    epoch: u64,
    client_id: Option<Str>,
    produce: Option<Held>,
    fetch: Option<Held>,
    request: Option<Held>,
}

impl Quotas {
    /// Takes over what the metadata says.
    pub(crate) fn update(&self, image: &Image) {
        let (default, named) = image.ip_quotas();
        self.of_ips.store(Arc::new(IpQuotas { default, named }));
        let change = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
        let has_quotas = image.has_client_quotas();
        self.epoch.store(if has_quotas { change } else { 0 }, Ordering::Release);
        if !has_quotas {
            self.buckets.clear();
        }
    }

    /// Whether clients may have to be held back at all.
    pub(crate) fn is_any(&self) -> bool {
        self.epoch.load(Ordering::Acquire) != 0
    }

    /// Does some work, and says for how long it kept a thread busy, where that counts.
    pub(crate) async fn timed<T>(&self, work: impl Future<Output = T>) -> (T, Duration) {
        if self.is_any() { timed(work).await } else { (work.await, Duration::ZERO) }
    }

    fn held(&self, broker: &Broker, context: &RequestContext, key: QuotaKey) -> Option<Held> {
        let epoch = self.epoch.load(Ordering::Acquire);
        if epoch == 0 {
            return None;
        }
        let mut cached = context.connection.quotas.0.lock();
        if cached.epoch != epoch || cached.client_id != context.client_id {
            let image = broker.metadata.image();
            let find = |key| {
                let (limit, owner) = owned(&image, context, key)?;
                Some(Held { limit, rate: self.rates.of(key, owner, broker.windows(), broker.ticks()) })
            };
            *cached = Cached {
                epoch,
                client_id: context.client_id.clone(),
                produce: find(QuotaKey::ProducerByteRate),
                fetch: find(QuotaKey::ConsumerByteRate),
                request: find(QuotaKey::RequestPercentage),
            };
        }
        let held = match key {
            QuotaKey::ProducerByteRate => &cached.produce,
            QuotaKey::ConsumerByteRate => &cached.fetch,
            QuotaKey::RequestPercentage => &cached.request,
            QuotaKey::ControllerMutationRate | QuotaKey::ConnectionCreationRate => &None,
        };
        held.clone()
    }

    /// A connection is to be accepted, of so many per second at most: for how long to wait before. `of_listener` is one listener's own share of that.
    pub(crate) fn accept(
        &self,
        broker: &Broker,
        rate_max: i32,
        of_listener: Option<(&Mutex<Rate>, i32)>,
    ) -> Duration {
        let all = accept(broker, &self.accepted, rate_max);
        of_listener.map_or(all, |(rate, rate_max)| all.max(accept(broker, rate, rate_max)))
    }

    /// For how long a connection from this address has to be put off.
    pub(crate) fn connection(&self, broker: &Broker, ip: IpAddr) -> Duration {
        let quotas = self.of_ips.load();
        let Some(limit) = quotas.named.get(&ip).copied().or(quotas.default) else { return Duration::ZERO };
        let (windows, now) = (broker.windows(), broker.ticks());
        let rate = self.rates.of(QuotaKey::ConnectionCreationRate, ip, windows, now);
        let mut rate = rate.lock();
        rate.take(1.0, windows, now);
        let wait = rate.wait(limit, windows, now).min(windows.length);
        if !wait.is_zero() {
            // It was not taken after all.
            rate.take(-1.0, windows, now);
            broker.metrics.throttled(QuotaKey::ConnectionCreationRate, wait);
        }
        wait
    }

    /// What a request that changes topics is measured against. Clients from `strict_from` on understand a refusal.
    pub(crate) fn mutations(&self, broker: &Broker, context: &RequestContext, strict_from: i16) -> Mutations {
        let mut mutations = Mutations { is_strict: context.version >= strict_from, ..Mutations::default() };
        if self.is_any() {
            let owned = owned(&broker.metadata.image(), context, QuotaKey::ControllerMutationRate);
            let windows = broker.controller_windows();
            mutations.bucket = owned.map(|(limit, owner)| {
                let kind = QuotaKey::ControllerMutationRate;
                (limit, windows, self.buckets.of(kind, owner, windows, broker.ticks()))
            });
        }
        mutations
    }
}

/// The quota of a request's client, and who counts with it.
fn owned(image: &Image, context: &RequestContext, key: QuotaKey) -> Option<(f64, (QuotaKey, Str, Str))> {
    let principal = &context.connection.principal;
    let user = principal.strip_prefix("User:").unwrap_or(principal);
    let client_id = context.client_id.as_deref().unwrap_or_default();
    let ClientQuota { limit, sharing } = image.client_quota(key, user, client_id)?;
    let (user, client_id) = match sharing {
        QuotaSharing::UserAndClientId => (user, client_id),
        QuotaSharing::User => (user, ""),
        QuotaSharing::ClientId => ("", client_id),
    };
    Some((limit, (key, Str::copy_from(user), Str::copy_from(client_id))))
}

/// The partitions that one request makes and deletes.
#[derive(Default)]
pub(crate) struct Mutations {
    bucket: Option<(f64, Windows, Arc<Mutex<Bucket>>)>,
    is_strict: bool,
    until: Mutex<Option<Instant>>,
}

impl Mutations {
    /// Takes partitions from the quota; an error where it is used up and the client understands that.
    pub(crate) fn take(&self, broker: &Broker, partitions: usize) -> Result<(), TopicError> {
        let Some((limit, windows, bucket)) = &self.bucket else { return Ok(()) };
        let now = broker.ticks();
        let mut bucket = bucket.lock();
        let wait = bucket.wait(*limit, *windows, now);
        if self.is_strict && !wait.is_zero() {
            self.wait(broker, wait);
            return Err(TopicError::Throttled);
        }
        bucket.take(partitions as f64, *limit, *windows, now);
        let wait = bucket.wait(*limit, *windows, now);
        if !self.is_strict && !wait.is_zero() {
            self.wait(broker, wait);
        }
        Ok(())
    }

    fn wait(&self, broker: &Broker, wait: Duration) {
        let before = self.until.lock().replace(Instant::now() + wait);
        if before.is_none() {
            broker.metrics.throttled(QuotaKey::ControllerMutationRate, wait);
        }
    }

    /// How long the client is to hold back from now on.
    pub(crate) fn throttle_time_ms(&self) -> i32 {
        self.until.lock().map_or(0, |until| wire_ms(until.saturating_duration_since(Instant::now())))
    }
}

/// How a consumer's answer is to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchVerdict {
    /// As it is.
    Deliver,
    /// Empty, with this much time to wait.
    HoldBack(Duration),
}

impl Broker {
    fn windows(&self) -> Windows {
        let settings = self.settings();
        let network = &settings.broker().network;
        Windows { count: network.quota_windows, length: seconds(network.quota_window_seconds) }
    }

    fn controller_windows(&self) -> Windows {
        let settings = self.settings();
        let network = &settings.broker().network;
        Windows {
            count: network.controller_quota_windows,
            length: seconds(network.controller_quota_window_seconds),
        }
    }

    /// So many bytes were produced, or given to a member of a share group, and that cannot be undone: reads nothing more of the
    /// connection while its client is over its quota. Returns until when.
    pub(crate) fn count_bytes(
        &self,
        context: &RequestContext,
        key: QuotaKey,
        bytes: usize,
    ) -> Option<Instant> {
        let Held { limit, rate } = self.quotas.held(self, context, key)?;
        let (windows, now) = (self.windows(), self.ticks());
        let wait = {
            let mut rate = rate.lock();
            rate.take(bytes as f64, windows, now);
            rate.wait(limit, windows, now)
        };
        self.mute(context, key, wait)
    }

    /// The most bytes that a consumer can be given at once without being over its quota.
    pub(crate) fn fetch_bytes_max(&self, context: &RequestContext) -> usize {
        let held = self.quotas.held(self, context, QuotaKey::ConsumerByteRate);
        held.map_or(usize::MAX, |held| self.windows().burst_max(held.limit) as usize)
    }

    /// A consumer's answer of so many bytes, worked on for so long, is ready. What is not delivered does not count.
    pub(crate) fn count_fetch(&self, context: &RequestContext, bytes: usize, busy: Duration) -> FetchVerdict {
        let of_requests = self.count_work(context, busy);
        let Some(Held { limit, rate }) = self.quotas.held(self, context, QuotaKey::ConsumerByteRate) else {
            return if of_requests.is_zero() {
                FetchVerdict::Deliver
            } else {
                FetchVerdict::HoldBack(of_requests)
            };
        };
        let (windows, now) = (self.windows(), self.ticks());
        let wait = {
            let mut rate = rate.lock();
            // One batch may be larger than all windows take: it is delivered when nothing else was.
            let is_first = rate.is_empty(windows, now);
            rate.take(bytes as f64, windows, now);
            let wait = if is_first { Duration::ZERO } else { rate.wait(limit, windows, now) };
            if !wait.max(of_requests).is_zero() {
                rate.take(-(bytes as f64), windows, now);
            }
            wait
        };
        if !wait.is_zero() {
            self.metrics.throttled(QuotaKey::ConsumerByteRate, wait);
        }
        match wait.max(of_requests) {
            Duration::ZERO => FetchVerdict::Deliver,
            wait => FetchVerdict::HoldBack(wait),
        }
    }

    /// Counts the time that a request took to be worked on; returns how long its client has to hold back for it, a window
    /// at most.
    fn count_work(&self, context: &RequestContext, busy: Duration) -> Duration {
        let held = self.quotas.held(self, context, QuotaKey::RequestPercentage);
        let Some(Held { limit, rate }) = held else { return Duration::ZERO };
        let (windows, now) = (self.windows(), self.ticks());
        let mut rate = rate.lock();
        rate.take(busy.as_secs_f64() * 100.0, windows, now);
        let wait = rate.wait(limit, windows, now).min(windows.length);
        if !wait.is_zero() {
            self.metrics.throttled(QuotaKey::RequestPercentage, wait);
        }
        wait
    }

    /// A request was worked on for so long and is about to be answered. The answer says for how long the client is to hold
    /// back, and its connection is not read from for as long. Fetches have been counted when their answer was found.
    pub(crate) fn settle(&self, context: &RequestContext, response: &mut Response, busy: Option<Duration>) {
        if !self.quotas.is_any() || is_brokers(context) {
            return;
        }
        let of_requests = busy.map_or(Duration::ZERO, |busy| self.count_work(context, busy));
        let Some(told) = response.throttle_time_ms_mut() else { return };
        *told = (*told).max(wire_ms(of_requests));
        let wait = Duration::from_millis(u64::try_from(*told).unwrap_or(0));
        if !wait.is_zero() {
            context.connection.mute_until(self.ticks_at(Instant::now() + wait));
        }
    }

    /// The controller has held back a client of this broker.
    pub(crate) fn relay_throttle(&self, context: &RequestContext, throttle_time_ms: i32) {
        if let Ok(ms @ 1..) = u64::try_from(throttle_time_ms) {
            context.connection.mute_until(self.ticks_at(Instant::now() + Duration::from_millis(ms)));
        }
    }

    fn mute(&self, context: &RequestContext, key: QuotaKey, wait: Duration) -> Option<Instant> {
        if wait.is_zero() {
            return None;
        }
        self.metrics.throttled(key, wait);
        let until = Instant::now() + wait;
        context.connection.mute_until(self.ticks_at(until));
        Some(until)
    }
}

/// Whether a request is one of brokers among themselves. A connection that acts for the cluster once is a broker's, which asks what
/// clients ask as well. Every connection begins with ApiVersions, before it can be told whose it is.
fn is_brokers(context: &RequestContext) -> bool {
    let acts_for_cluster = authorize::required(context.api).0 == Operation::ClusterAction
        || (context.api == ApiKey::AddPartitionsToTxn && context.version >= VERIFYING_VERSION_MIN);
    if acts_for_cluster {
        context.connection.set_acts_for_cluster();
    }
    acts_for_cluster || context.api == ApiKey::ApiVersions || context.connection.acts_for_cluster()
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

/// What is left of a wait, as answers tell it.
pub(crate) fn left_ms(until: Option<Instant>) -> i32 {
    until.map_or(0, |until| wire_ms(until.saturating_duration_since(Instant::now())))
}

pub(crate) fn wire_ms(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}

/// Waiting is no work.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let mut work = pin!(work);
    let mut busy = Duration::ZERO;
    let done = poll_fn(|cx| {
        let began = Instant::now();
        let polled = work.as_mut().poll(cx);
        busy += began.elapsed();
        polled
    });
    (done.await, busy)
}

/// One more is accepted, of so many per second at most: for how long to wait before.
fn accept(broker: &Broker, rate: &Mutex<Rate>, rate_max: i32) -> Duration {
    if rate_max == i32::MAX {
        return Duration::ZERO;
    }
    let (windows, now) = (broker.windows(), broker.ticks());
    let mut rate = rate.lock();
    rate.take(1.0, windows, now);
    // A rate of nothing is a wait for another one.
    rate.wait(f64::from(rate_max), windows, now).min(windows.length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: QuotaKey = QuotaKey::ProducerByteRate;
    const WINDOWS: Windows = Windows { count: 11, length: Duration::from_secs(1) };

    #[test]
    fn meters_are_shared_by_name_and_forgotten_when_idle() {
        let meters = Meters::<Rate>::default();
        let held = meters.of(KIND, "held", WINDOWS, Millis(0));
        held.lock().take(1.0, WINDOWS, Millis(0));
        assert!(Arc::ptr_eq(&held, &meters.of(KIND, "held", WINDOWS, Millis(0))));
        for client in 0..METERS_MAX * 3 {
            let now = Millis(client as i64);
            meters.of(KIND, client, WINDOWS, now).lock().take(1.0, WINDOWS, now);
        }
        assert!(meters.state.lock().by_owner.len() <= METERS_MAX + 1);
        assert!(
            Arc::ptr_eq(&held, &meters.of(KIND, "held", WINDOWS, Millis(1 << 40))),
            "whoever holds one keeps it"
        );
    }

    #[test]
    fn those_who_come_when_all_meters_are_taken_share_one() {
        let meters = Meters::<Rate>::default();
        for client in 0..METERS_MAX {
            meters.of(KIND, client, WINDOWS, Millis(0)).lock().take(1.0, WINDOWS, Millis(0));
        }
        let (one, other) =
            (meters.of(KIND, "one", WINDOWS, Millis(0)), meters.of(KIND, "other", WINDOWS, Millis(0)));
        assert!(Arc::ptr_eq(&one, &other));
        let of_another_kind = meters.of(QuotaKey::RequestPercentage, "other", WINDOWS, Millis(0));
        assert!(!Arc::ptr_eq(&one, &of_another_kind), "bytes are not compared with percents");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_no_work() {
        let (done, busy) = timed(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            7
        })
        .await;
        assert_eq!((done, busy), (7, Duration::ZERO));
    }
}
