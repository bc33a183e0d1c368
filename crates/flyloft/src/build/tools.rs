//! Images with programs of Debian's that are no app: clients of databases, and servers.

use std::collections::BTreeSet;

use flyloft_core::plan::Stack;

use super::layering::{self, Content};
use super::{BuildError, Builder, Hold};
use crate::engine::{Derivation, Image, Recipe};
use crate::transcript::Transcript;

/// What such an image is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tools<'a> {
    pub stack: Stack,
    /// Another one than 0 has layers of its own, whose packages are those that Debian had when it was first made.
    pub edition: u32,
    pub packages: &'a [&'a str],
}

impl<'a> Tools<'a> {
    /// Debian's newest, whose clients work with servers of all versions until then.
    pub fn newest(packages: &'a [&'a str]) -> Self {
        Self { stack: Stack::Debian13, edition: 0, packages }
    }
}

impl Builder {
    /// Whether nothing of such an image has to be made.
    pub async fn has_tools(&self, tools: &Tools<'_>) -> Result<bool, BuildError> {
        let there = self.engine.layers().await.map_err(|source| BuildError::engine("list the layers", source))?;
        Ok(layering::image(&layering::tools(tools)).iter().all(|layer| there.contains(layer)))
    }

    /// Such an image, made by the first who wants it. It is kept for as long as that is held, and like other layers after
    /// that.
    pub async fn tools(&self, tools: &Tools<'_>) -> Result<(Image, Hold), BuildError> {
        let layers = layering::tools(tools);
        let image = layering::image(&layers);
        let (missing, hold) = {
            let _looking = self.looking.read().await;
            let there = self.engine.layers().await;
            let there: BTreeSet<_> =
                there.map_err(|source| BuildError::engine("list the layers", source))?.into_iter().collect();
            (layering::missing(&layers, &there), self.holds.hold(image.clone()))
        };
        for layer in missing {
            let recipe = match &layer.content {
                Content::Debian { stack, packages } => {
                    Recipe::Debian { suite: stack.suite().to_owned(), packages: packages.clone() }
                }
                Content::Packages(packages) => Recipe::Packages { packages: packages.clone() },
                _ => unreachable!("tools are packages of Debian's"),
            };
            let (id, title, on) = (layer.id.clone(), layer.title.clone(), layer.on.clone());
            tracing::info!(layer = title, "preparing a layer for tools");
            let made = self.engine.derive(Derivation { id, title, on, recipe }, &Transcript::discard()).await;
            made.map_err(|source| BuildError::of_layer(layer, source))?;
        }
        Ok((image, hold))
    }
}
