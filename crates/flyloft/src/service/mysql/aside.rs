//! Databases that are filled aside, before what is in place is emptied for what is in them: MySQL cannot rename one.
//!
//! Each has a user of its own, who may do nothing elsewhere: whatever a dump says, what is in place is not changed by it.
//! The app's user may do nothing there, so that no app has one made under that name.

use super::Session;
use super::made::identifier;
use crate::service::{Fault, Label, Secret, ServiceError, Wanted};

/// Users of MySQL have no longer names.
const LONGEST: usize = 32;

/// What is filled before it takes somebody's place.
pub(super) fn of(wanted: &Wanted) -> Wanted {
    Wanted { label: beside(&wanted.label), password: Secret(crate::random::hex(32)), ..wanted.clone() }
}

/// Names of ours end with digits that no other one has. Administrators may be allowed to use nothing but `flyloft_…`.
fn beside(label: &Label) -> Label {
    let (begin, end) = ("flyloft_", "_new");
    let rest = label.name.strip_prefix(begin).unwrap_or(&label.name);
    let over = (begin.len() + rest.len() + end.len()).saturating_sub(LONGEST);
    Label { name: format!("{begin}{}{end}", &rest[over..]), text: label.text.clone(), number: None }
}

impl Session<'_> {
    /// Makes an empty one, and who fills it.
    pub(super) async fn open_aside(&mut self, label: &Label, aside: &Wanted) -> Result<(), ServiceError> {
        self.lock(label).await?;
        self.must_be_ours(label).await?;
        self.clear(label).await?;
        let version = self.version().await?;
        self.write_down(&aside.label).await?;
        self.complete(aside, &version).await?;
        crate::fault::point("service.aside");
        Ok(())
    }

    pub(super) async fn drop_aside(&mut self, label: &Label) -> Result<(), ServiceError> {
        self.lock(label).await?;
        self.clear(label).await
    }

    /// What was left aside, whoever fills it.
    pub(super) async fn clear(&mut self, label: &Label) -> Result<(), ServiceError> {
        let beside = beside(label);
        if !self.is_ours(&beside).await? {
            return Ok(());
        }
        self.cut(&beside).await?;
        self.take_away(&beside).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_a_name_is_another_one_that_fits_and_keeps_its_digits() {
        for (name, expected) in [
            ("flyloft_shop_main_1f3a9c42", "flyloft_shop_main_1f3a9c42_new"),
            ("flyloft_shop_feature_12_1f3a9c42", "flyloft__feature_12_1f3a9c42_new"),
        ] {
            let name = name.to_owned();
            let beside = beside(&Label { name, text: "flyloft 1f3a9c".to_owned(), number: None });
            assert_eq!((beside.name.as_str(), beside.text.as_str()), (expected, "flyloft 1f3a9c"));
        }
    }
}
