//! Questions: how PostgreSQL answers what [`crate::read`] asks, set-wise where that saves round trips.
//!
//! Nothing here writes, begins or ends a transaction.

use std::error::Error;
use std::ops::Range;

use papertrader_core::ids::{AccountId, OrderId};
use papertrader_core::order::OrderRecord;
use tokio_postgres::Row;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::client::Client;
use crate::StoreError;
use crate::read::{Ask, Each, sql_limit};
use crate::rows::{self, Cells, Reading, SELECT_ORDER, Value};

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Integer(number) if *ty == Type::INT2 => i16::try_from(*number)?.to_sql(ty, out),
            Value::Integer(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Value::Integer(number) if *ty == Type::INT8 => number.to_sql(ty, out),
            Value::Text(text) if *ty == Type::TEXT => text.to_sql(ty, out),
            Value::Bytes(bytes) if *ty == Type::BYTEA => bytes.to_sql(ty, out),
            _ => Err(format!("a value of another type than {ty}").into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT2 | Type::INT4 | Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

impl Cells for Row {
    fn cell(&self, column: usize) -> Result<Value<'_>, StoreError> {
        let ty = self.columns().get(column).map_or(&Type::UNKNOWN, |column| column.type_());
        let integer = |number: Option<i64>| Value::optional(number);
        let cell = match *ty {
            Type::INT2 => self.try_get::<_, Option<i16>>(column).map(|n| integer(n.map(i64::from))),
            Type::INT4 => self.try_get::<_, Option<i32>>(column).map(|n| integer(n.map(i64::from))),
            Type::INT8 => self.try_get(column).map(integer),
            Type::TEXT | Type::VARCHAR => {
                self.try_get::<_, Option<&str>>(column).map(|t| t.map_or(Value::Null, Value::Text))
            }
            Type::BYTEA => self
                .try_get::<_, Option<&[u8]>>(column)
                .map(|bytes| bytes.map_or(Value::Null, Value::Bytes)),
            _ => {
                let what = format!("a column {} has type {ty}", self.column_name(column));
                return Err(StoreError::Corrupt(what));
            }
        };
        cell.map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    fn column_name(&self, column: usize) -> &str {
        self.columns().get(column).map_or("?", |column| column.name())
    }
}

impl Ask for Client {
    fn for_each(
        &self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut Each<'_>,
    ) -> Result<(), StoreError> {
        Client::for_each(self, sql, values, each)
    }

    fn keys(
        &self,
        generations: Range<u64>,
        account: AccountId,
        hash: Option<u64>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        // The key begins with the generation: each is looked up by itself.
        let generations: Vec<i64> = generations.map(u64::cast_signed).collect();
        let (account, hash) = (i64::from(account.0), hash.map(u64::cast_signed));
        let limit = sql_limit(limit);
        let mut orders = Vec::new();
        let mut each = |row: &dyn Cells| {
            orders.push(OrderId(Reading::new(row, "outcome", 1).number(0)?));
            Ok(())
        };
        match hash {
            Some(hash) => {
                let sql = "SELECT id FROM outcome
                           WHERE generation = ANY(?1) AND account = ?2 AND hash = ?3
                           ORDER BY id DESC LIMIT ?4";
                let values: [&(dyn ToSql + Sync); 4] = [&generations, &account, &hash, &limit];
                Client::for_each(self, sql, &values, &mut each)?;
            }
            None => {
                let sql = "SELECT id FROM outcome WHERE generation = ANY(?1) AND account = ?2
                           ORDER BY id DESC LIMIT ?3";
                let values: [&(dyn ToSql + Sync); 3] = [&generations, &account, &limit];
                Client::for_each(self, sql, &values, &mut each)?;
            }
        }
        Ok(orders)
    }

    fn orders(&self, ids: &[OrderId]) -> Result<Vec<OrderRecord>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<i64> = ids.iter().map(|id| id.0.cast_signed()).collect();
        let values: [&(dyn ToSql + Sync); 1] = [&numbers];
        let mut found = std::collections::HashMap::with_capacity(ids.len());
        let sql = format!("{SELECT_ORDER} WHERE o.id = ANY(?1)");
        Client::for_each(self, &sql, &values, &mut |row| {
            let record = rows::order(row)?;
            found.insert(record.order.id, record);
            Ok(())
        })?;
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    fn structure(&self) -> Result<Vec<String>, StoreError> {
        // A page that cannot be read is the server's to say, and then an error.
        Ok(Vec::new())
    }
}
