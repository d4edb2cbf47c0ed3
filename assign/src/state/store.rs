//! The database: tables of JSON values by text keys, both as bytes, so that what is damaged is found
//! here and not within the database.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{
    Database, Error, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition,
    TableHandle, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::State;
use super::known::{Content, Entries, Mark};
use crate::failure::{Failure, OwnReason};

/// A table by its name.
pub(super) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

type OpenTable<'a> = redb::Table<'a, &'static [u8], &'static [u8]>;

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
        self.guarded(|| {
            self.make_database()?;
            let database = Database::create(self.database()).map_err(|error| self.broken(error))?;
            let transaction = database.begin_write().map_err(|error| self.broken(error))?;
            let changes = Transaction { state: self, transaction };
            let result = work(&changes)?;
            changes.transaction.commit().map_err(|error| self.broken(error))?;
            Ok(result)
        })
    }

    /// Makes the database where there is none. It appears whole or not at all: one that a killed
    /// command left half made could not be told from a damaged one.
    fn make_database(&self) -> Result<(), Failure> {
        let database = self.database();
        let failed = |error: &std::io::Error| self.unusable(&database, error);
        if database.try_exists().map_err(|error| failed(&error))? {
            return Ok(());
        }
        let new = database.with_extension("redb.new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        drop(Database::create(&new).map_err(|error| self.broken(error))?);
        // The directory may have been there before, and open to everybody.
        let made = std::fs::set_permissions(&new, Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&new, &database))
            .and_then(|()| File::open(self.directory())?.sync_all());
        made.map_err(|error| failed(&error))
    }

    /// Every value of a table in the order of its keys; none where nothing was ever remembered,
    /// or what is remembered is not for this user to see. Writes nothing, unless a process that was
    /// killed left the database to be put in order.
    pub(super) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>, Failure> {
        if self.is_hidden() {
            return Ok(Vec::new());
        }
        match self.database().try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(Vec::new()),
            Err(error) => return Err(self.unusable(self.directory(), &error)),
        }
        let lock = self.share_database()?;
        match self.content()? {
            Some(content) => {
                let entries = content.entries(table.name()).iter();
                entries.map(|(key, value)| self.decode(key, value)).collect()
            }
            None => {
                drop(lock);
                self.change(|transaction| transaction.all(table))
            }
        }
    }

    /// All that the database has; `None` where it is to be put in order first. Whoever asks holds its
    /// lock.
    fn content(&self) -> Result<Option<Arc<Content>>, Failure> {
        let database = self.database();
        let mark = File::open(&database).and_then(|file| Mark::of(&file));
        let mark = mark.map_err(|error| self.unusable(&database, &error))?;
        if let Some(content) = self.known.of(&mark) {
            return Ok(Some(content));
        }
        let tables =
            self.guarded(|| match ReadOnlyDatabase::open(&database).map_err(Error::from) {
                Ok(database) => self.tables(&database).map(Some),
                Err(Error::RepairAborted) => Ok(None),
                Err(error) => Err(self.broken(error)),
            })?;
        let Some(tables) = tables else { return Ok(None) };
        let content = Arc::new(Content { mark, tables });
        self.known.keep(Arc::clone(&content));
        Ok(Some(content))
    }

    /// The database panics on some damage of its file; here that is an error like any other. Nothing
    /// of it is used again afterwards.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(self.damaged(&"its database gave up on it")))
    }

    fn tables(&self, database: &ReadOnlyDatabase) -> Result<BTreeMap<String, Entries>, Failure> {
        let transaction = database.begin_read().map_err(|error| self.broken(error))?;
        let mut tables = BTreeMap::new();
        for handle in transaction.list_tables().map_err(|error| self.broken(error))? {
            let name = handle.name().to_owned();
            let table = TableDefinition::<&'static [u8], &'static [u8]>::new(&name);
            let table = transaction.open_table(table).map_err(|error| self.broken(error))?;
            let mut entries = Entries::new();
            for entry in table.iter().map_err(|error| self.broken(error))? {
                let (key, value) = entry.map_err(|error| self.broken(error))?;
                entries.push((key.value().to_vec(), value.value().to_vec()));
            }
            tables.insert(name, entries);
        }
        Ok(tables)
    }

    fn values<T: DeserializeOwned>(
        &self,
        table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    ) -> Result<Vec<T>, Failure> {
        let mut values = Vec::new();
        for entry in table.iter().map_err(|error| self.broken(error))? {
            let (key, value) = entry.map_err(|error| self.broken(error))?;
            values.push(self.decode(key.value(), value.value())?);
        }
        Ok(values)
    }

    fn decode<T: DeserializeOwned>(&self, key: &[u8], text: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(text).map_err(|error| {
            let key = String::from_utf8_lossy(key);
            self.damaged(&format!("its entry {key:?} cannot be understood ({error})"))
        })
    }

    /// What the database answered.
    fn broken(&self, error: impl Into<Error>) -> Failure {
        match error.into() {
            Error::Io(error) => self.unusable(&self.database(), &error),
            error => self.damaged(&error),
        }
    }

    fn damaged(&self, cause: &dyn std::fmt::Display) -> Failure {
        let message = format!("the state of assign is damaged, or of another version: {cause}");
        Failure::failed(OwnReason::State, self.database().display(), message).with_remedy(
            "Stop the guests, move the file away, and apply the policies again: what is there \
             already is taken over.",
        )
    }
}

impl Transaction<'_> {
    pub(super) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>, Failure> {
        self.state.values(&self.table(table)?)
    }

    pub(super) fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &str,
    ) -> Result<Option<T>, Failure> {
        let table = self.table(table)?;
        let value = table.get(key.as_bytes()).map_err(|error| self.state.broken(error))?;
        value.map(|value| self.state.decode(key.as_bytes(), value.value())).transpose()
    }

    pub(super) fn put<T: Serialize>(
        &self,
        table: Table,
        key: &str,
        value: &T,
    ) -> Result<(), Failure> {
        let text = serde_json::to_vec(value).map_err(|error| self.state.damaged(&error))?;
        let inserted = self.table(table)?.insert(key.as_bytes(), text.as_slice()).map(drop);
        inserted.map_err(|error| self.state.broken(error))
    }

    pub(super) fn remove(&self, table: Table, key: &str) -> Result<(), Failure> {
        let removed = self.table(table)?.remove(key.as_bytes()).map(drop);
        removed.map_err(|error| self.state.broken(error))
    }

    pub(super) fn clear(&self, table: Table) -> Result<(), Failure> {
        self.transaction.delete_table(table).map(drop).map_err(|error| self.state.broken(error))
    }

    /// A table, which is made where it is not there yet.
    fn table(&self, table: Table) -> Result<OpenTable<'_>, Failure> {
        self.transaction.open_table(table).map_err(|error| self.state.broken(error))
    }
}
