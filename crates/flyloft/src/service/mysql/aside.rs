//! Databases that are filled aside, before what is in place is emptied for what is in them: MySQL cannot rename one.

use super::Session;
use super::made::{account, identifier};
use crate::service::{Fault, Label, ServiceError};

/// What is filled before it takes somebody's place. Names of ours are of 32 characters at most, so that this one fits.
pub(super) fn beside(label: &Label) -> Label {
    Label { name: format!("{}_new", label.name), text: label.text.clone(), number: None }
}

impl Session<'_> {
    /// Makes an empty one, which the same user can use.
    pub(super) async fn open_aside(&mut self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        self.must_be_ours(label).await?;
        self.clear(label).await?;
        let beside = beside(label);
        self.write_down(&beside).await?;
        self.make_database(&beside.name).await?;
        crate::fault::point("service.aside");
        self.give(&beside.name, &account(&label.name)).await
    }

    pub(super) async fn drop_aside(&mut self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        self.clear(label).await
    }

    /// What was left aside.
    pub(super) async fn clear(&mut self, label: &Label) -> Result<(), ServiceError> {
        let beside = beside(label);
        match self.is_ours(&beside).await? {
            true => self.take_away(&beside).await,
            false => Ok(()),
        }
    }

    /// Leaves nothing in it. What its user may do there stays.
    pub(super) async fn empty(&mut self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        self.must_be_ours(label).await?;
        self.cut(label).await?;
        let drop = format!("DROP DATABASE IF EXISTS {}", identifier(&label.name));
        self.run("drop a database", &drop).await?;
        self.make_database(&label.name).await
    }

    async fn must_be_ours(&mut self, label: &Label) -> Result<(), ServiceError> {
        match self.is_ours(label).await? {
            true => Ok(()),
            false => Err(ServiceError::new(self.server, Fault::NoSeed(label.name.clone()))),
        }
    }
}
