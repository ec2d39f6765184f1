//! Rows: a subscription to what clients measure of themselves (KIP-714).

use std::time::Duration;

section! {
    /// One subscription.
    ClientMetricsSettings, ROWS;

    /// Metrics to push, by the beginnings of their names; `*` for all.
    "metrics" List Any = "", ClientMetrics Medium => metrics: Vec<String>;
    /// Time between two pushes of a client.
    "interval.ms" Int Between(100, 3_600_000) = "300000", ClientMetrics Medium => push_interval: Duration;
    /// Clients that are meant, as `selector=regular expression`. The selectors are client_instance_id, client_id,
    /// client_software_name, client_software_version, client_source_address and client_source_port; without any, all are.
    "match" List ClientMatch = "", ClientMetrics Medium => client_match: Vec<String>;
}
