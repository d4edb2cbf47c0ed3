//! The database: tables of JSON values by text keys.

use std::path::Path;

use redb::{Database, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::State;
use crate::failure::Failure;

/// A table by its name.
pub(super) type Table = TableDefinition<'static, &'static str, &'static str>;

/// Several reads and writes that happen together or not at all.
pub struct Transaction<'a> {
    state: &'a State,
    transaction: WriteTransaction,
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("state", &self.state).finish_non_exhaustive()
    }
}

impl State {
    /// Runs `work` in a transaction; an error from it leaves the state as it was.
    pub fn change<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let _lock = self.lock_database()?;
        let path = self.database();
        let database = Database::create(&path).map_err(|error| self.unusable(&path, &error))?;
        let transaction = database.begin_write().map_err(|error| self.unusable(&path, &error))?;
        let changes = Transaction { state: self, transaction };
        let result = work(&changes)?;
        changes.transaction.commit().map_err(|error| self.unusable(&path, &error))?;
        Ok(result)
    }

    /// Every value of a table in the order of its keys; none where nothing was ever remembered,
    /// or what is remembered is not for this user to see.
    pub(super) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>, Failure> {
        match self.database().try_exists() {
            Ok(true) => self.change(|transaction| transaction.all(table)),
            Ok(false) => Ok(Vec::new()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(Vec::new()),
            Err(error) => Err(self.unusable(self.directory(), &error)),
        }
    }
}

impl Transaction<'_> {
    pub(super) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>, Failure> {
        let table = match self.transaction.open_table(table) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(&error)),
        };
        let mut values = Vec::new();
        for entry in table.iter().map_err(|error| self.failed(&error))? {
            let (key, value) = entry.map_err(|error| self.failed(&error))?;
            values.push(self.decode(key.value(), value.value())?);
        }
        Ok(values)
    }

    pub(super) fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &str,
    ) -> Result<Option<T>, Failure> {
        let table = self.transaction.open_table(table).map_err(|error| self.failed(&error))?;
        let value = table.get(key).map_err(|error| self.failed(&error))?;
        value.map(|value| self.decode(key, value.value())).transpose()
    }

    pub(super) fn put<T: Serialize>(
        &self,
        table: Table,
        key: &str,
        value: &T,
    ) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| self.failed(&error))?;
        let mut table = self.transaction.open_table(table).map_err(|error| self.failed(&error))?;
        table.insert(key, text.as_str()).map_err(|error| self.failed(&error))?;
        Ok(())
    }

    pub(super) fn remove(&self, table: Table, key: &str) -> Result<(), Failure> {
        let mut table = self.transaction.open_table(table).map_err(|error| self.failed(&error))?;
        table.remove(key).map_err(|error| self.failed(&error))?;
        Ok(())
    }

    pub(super) fn clear(&self, table: Table) -> Result<(), Failure> {
        self.transaction.delete_table(table).map_err(|error| self.failed(&error))?;
        Ok(())
    }

    fn decode<T: DeserializeOwned>(&self, key: &str, text: &str) -> Result<T, Failure> {
        serde_json::from_str(text).map_err(|error| {
            let cause = format!("its entry {key:?} cannot be understood: {error}");
            self.failed(&cause)
        })
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Failure {
        let path = self.state.database();
        self.state.unusable(Path::new(&path), error)
    }
}
