//! `flyloft volumes`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use flyloft_core::name::{AppName, EnvRef};
use flyloft_core::policy::Size;
use flyloft_core::volume::{MountPath, TemplateName};
use serde::{Deserialize, Serialize};

use super::Target;

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Volumes {
    /// Give an environment a directory that outlives its deploys, or one that it has another size.
    ///
    /// What serves is launched anew with it. What the image has at that path is hidden by it.
    #[command(after_help = "Examples:
  flyloft volumes add shop/main /app/uploads
  flyloft volumes add shop/main /app/uploads --size 10GiB
  flyloft volumes add shop/pr-42 /app/media --template seed")]
    Add(VolumesAdd),
    /// List volumes, and what they take.
    Ls {
        /// app or app/env
        target: Target,
    },
    /// Take a volume away from an environment, with all that is in it.
    ///
    /// What serves is launched anew without it. What `app.json` asks for is made again with the next build, and is empty
    /// then.
    Rm(VolumesRm),
    /// What an app's volumes can start with.
    #[command(subcommand)]
    Templates(VolumeTemplates),
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct VolumesAdd {
    /// app/env
    pub env: EnvRef,
    /// Where its processes find it.
    pub path: MountPath,
    /// How much may be in it; as much as the environment's own disk may take if nothing is said. An environment that
    /// fills it beyond that is stopped.
    #[arg(long)]
    pub size: Option<Size>,
    /// What it starts with; nothing is in it otherwise.
    #[arg(long, value_name = "NAME")]
    pub template: Option<TemplateName>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct VolumesRm {
    /// app/env
    pub env: EnvRef,
    pub path: MountPath,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum VolumeTemplates {
    /// Make a template of a tar archive. Every environment of the app can have what is in it.
    #[command(after_help = "Examples:
  tar -C uploads -c . | flyloft volumes templates add shop seed
  flyloft run shop/main -- tar -C /app/uploads -c . | flyloft volumes templates add shop seed")]
    Add {
        app: AppName,
        name: TemplateName,
        /// The archive, not compressed; standard input if none is named.
        file: Option<PathBuf>,
    },
    /// List an app's templates.
    Ls { app: AppName },
    /// Remove a template. What was copied from it stays.
    Rm { app: AppName, name: TemplateName },
}
