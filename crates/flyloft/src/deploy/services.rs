//! The step `services`: what the release is launched with, volumes among it. What it has on servers is made while it is built, as far as
//! that is known by then, so that a deploy that builds for longer does not take longer for it.

use std::path::Path;

use flyloft_core::name::Origin;
use flyloft_core::service::Ask;
use tokio_util::task::AbortOnDropHandle;

use super::image::{self, Made};
use super::{Job, Undo, spec};
use crate::error::Result;
use crate::provision::{self, Given};
use crate::store::Content;
use crate::volumes;

/// What is under way while the build goes on. It is broken off with the deploy.
pub(super) struct Early {
    pub asks: Vec<Ask>,
    making: AbortOnDropHandle<Result<Vec<String>>>,
}

/// Begins with what the tree asks for, or what served until now if there is none.
pub(super) async fn begin(job: &Job, tree: Option<&Path>) -> Result<Early> {
    let asked = match tree {
        Some(tree) => {
            let app_json = job.parts.builder.app_json(tree).await.unwrap_or_default();
            match job.env.origin {
                Origin::PullRequest(_) => app_json.for_review().settings,
                _ => app_json.manifest.settings,
            }
        }
        None => job.env.asked.clone(),
    };
    let (asks, _) = provision::met(&job.parts, &job.env, &asked).await?;
    for packages in provision::unprepared(&job.parts, &job.env, &asks).await? {
        job.transcript.step(&format!("Preparing {packages} (once)"));
    }
    let (parts, env, wanted) = (job.parts.clone(), job.env.clone(), asks.clone());
    let making = tokio::spawn(async move { provision::provide(&parts, &env, &wanted).await });
    Ok(Early { asks, making: AbortOnDropHandle::new(making) })
}

/// Collects all that the release needs, and makes what is still missing.
pub(super) async fn collect(job: &Job, built: Made, early: Early, undo: &mut Undo) -> Result<(Content, Given)> {
    // What did not work is tried again, and told then.
    let mut made = early.making.await.ok().and_then(Result::ok).unwrap_or_default();
    let content = spec::content(job, built).await?;
    let (asks, unmet) = provision::met(&job.parts, &job.env, &content.settings).await?;
    image::check_required(job, &content, &asks)?;
    volumes::prepare(job, &content, undo).await?;
    made.extend(provision::provide(&job.parts, &job.env, &asks).await?);
    for made in made {
        job.transcript.step(&made);
    }
    for Ask { kind, .. } in unmet {
        job.transcript.step(&format!("No {kind} service, which `app.json` asks for"));
        let words =
            format!("there is no server for it; an admin tells of one: flyloft services add NAME --kind {kind}");
        job.transcript.detail(&words);
    }
    Ok((content, provision::given(&job.parts, &job.env, job.release, &asks).await?))
}
