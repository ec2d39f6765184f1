//! The same commit in a transaction of sqlx's.
//!
//! The statements are those of [`PostgresStore::commit_in`]; only who sends them is another.

use std::sync::Arc;

use sqlx::{PgConnection, Row};
use wire::Offset;

use crate::key::Key;
use crate::postgres::{PostgresStore, at, select_one, update};
use crate::postgres_connection::{STORE, advice};
use crate::store::{Claim, Fence, Found, StoreError, judge};

impl PostgresStore {
    /// [`PostgresStore::commit_in`] for a transaction of sqlx's: `&mut *transaction` is its connection.
    ///
    /// After any error the transaction has to be rolled back. [`StoreError::AlreadyThere`] says that an earlier transaction, whose
    /// commit was not answered, has done the same: results and position are there.
    pub async fn commit_in_sqlx(
        &self,
        transaction: &mut PgConnection,
        claim: &Claim,
    ) -> Result<(), StoreError> {
        let Claim { key, fence, position, over, .. } = claim;
        let Key { reader, cluster_id, partition, topic_id } = key;
        let updated = sqlx::query(&update(self.table(), claim.expected))
            .bind(reader.as_str())
            .bind(cluster_id.as_str())
            .bind(&*partition.topic)
            .bind(partition.partition.0)
            .bind(fence.number)
            .bind(fence.token)
            .bind(topic_id.to_string())
            .bind(position.next.0)
            .bind(position.leader_epoch.0)
            .bind(over.map(|over| over.0))
            .bind(at(claim.expected))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        if updated.rows_affected() == 1 {
            return Ok(());
        }
        let row = sqlx::query(&select_one(self.table()))
            .bind(reader.as_str())
            .bind(cluster_id.as_str())
            .bind(&*partition.topic)
            .bind(partition.partition.0)
            .fetch_optional(transaction)
            .await
            .map_err(failed)?;
        let found = row.map(|row| found(key, &row)).transpose()?;
        judge(claim, found)?;
        // It was not so a moment ago, when the update looked.
        Err(StoreError::Busy { key: Box::new(key.clone()) })
    }
}

fn found(key: &Key, row: &sqlx::postgres::PgRow) -> Result<Found, StoreError> {
    let fence = Fence { number: row.try_get(0).map_err(failed)?, token: row.try_get(1).map_err(failed)? };
    let Some(next) = row.try_get::<Option<i64>, _>(2).map_err(failed)? else {
        return Ok(Found { fence, at: None });
    };
    let topic_id = row.try_get::<Option<&str>, _>(3).map_err(failed)?.unwrap_or_default();
    let topic_id = topic_id.parse().map_err(|_| StoreError::Garbage {
        place: format!("the row of {key}"),
        found: format!("{topic_id:?}"),
        expected: "topic id",
    })?;
    Ok(Found { fence, at: Some((Offset(next), topic_id)) })
}

fn failed(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    let advice = code.as_deref().and_then(advice);
    if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnIndexOutOfBounds { .. }) {
        return StoreError::Garbage {
            place: "the reader's table".to_owned(),
            found: error.to_string(),
            expected: "table of positions (another table has its name: choose another name)",
        };
    }
    let source = Arc::new(error);
    match advice {
        Some(advice) => StoreError::Refused { store: STORE, source, advice },
        None => StoreError::Unavailable { store: STORE, source },
    }
}
