//! Results and position in one transaction of sqlx's, in a real PostgreSQL.

mod support;

use offsets::{Claim, Expected, Fence, Key, OffsetStore, Position, StoreError};
use sqlx::{Connection, Executor, PgConnection};
use support::Postgres;
use wire::{LeaderEpoch, Offset, PartitionId, TopicPartition, Uuid};

fn claim(key: &Key, fence: Fence, expected: Expected, next: i64) -> Claim {
    let position = Position { next: Offset(next), leader_epoch: LeaderEpoch(3) };
    Claim { key: key.clone(), fence, expected, position, over: None }
}

#[tokio::test]
async fn results_and_position_are_there_together_or_neither() {
    let postgres = Postgres::start().await;
    let store = postgres.store().await;
    let key = Key {
        reader: "billing".parse().unwrap(),
        cluster_id: "cluster-a".to_owned(),
        partition: TopicPartition::new("orders", PartitionId(0)),
        topic_id: Uuid([7; 16]),
    };
    let held = store.acquire(&key).await.unwrap();
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    connection.execute("CREATE TABLE results (value bigint)").await.unwrap();
    for ends_well in [false, true] {
        let mut transaction = connection.begin().await.unwrap();
        transaction.execute("INSERT INTO results VALUES (1)").await.unwrap();
        let first = claim(&key, held.fence, Expected::Nothing, 1);
        store.commit_in_sqlx(&mut transaction, &first).await.unwrap();
        match ends_well {
            true => transaction.commit().await.unwrap(),
            false => transaction.rollback().await.unwrap(),
        }
    }
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM results").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1);

    let mut told = async |claim: &Claim| {
        let mut transaction = connection.begin().await.unwrap();
        let outcome = store.commit_in_sqlx(&mut transaction, claim).await;
        transaction.rollback().await.unwrap();
        outcome.expect_err("it is to be refused")
    };
    // The answer to the commit was lost, so it is tried again.
    let again = told(&claim(&key, held.fence, Expected::Nothing, 1)).await;
    assert!(matches!(again, StoreError::AlreadyThere { at: Offset(1), .. }), "{again}");
    let moved = told(&claim(&key, held.fence, Expected::At(Offset(5)), 6)).await;
    assert!(matches!(moved, StoreError::Moved { stored: Offset(1), .. }), "{moved}");
    let recreated = Key { topic_id: Uuid([8; 16]), ..key.clone() };
    let other = told(&claim(&recreated, held.fence, Expected::At(Offset(1)), 2)).await;
    assert!(matches!(other, StoreError::OtherTopic { .. }), "{other}");
    store.acquire(&key).await.unwrap();
    let zombie = told(&claim(&key, held.fence, Expected::At(Offset(1)), 2)).await;
    assert!(matches!(zombie, StoreError::Fenced { .. }), "{zombie}");
}
