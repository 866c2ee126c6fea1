//! From a directory and a command's arguments to the state they use.

use std::path::Path;

use super::aws_settings::Surroundings;
use super::config::BackendConfig;
use super::other::OtherBackend;
use super::plan_file::{PlanFile, SavedPlan};
use super::workspace::Workspace;
use super::{
    Backend, BackendError, BackendQuery, Dialect, Resolved, data_dir, hcl, local, plan_file, s3,
    workspace,
};

const NO_BACKEND: &str = "none is configured";

/// Finds the state that a command will use.
///
/// # Errors
/// When that cannot be said for certain; the run must not go on then.
pub fn resolve(request: &BackendQuery<'_>) -> Result<Resolved, BackendError> {
    if let Some(flag) = request.state_flag.as_ref().filter(|flag| flag.any_backend) {
        // Terraform looks neither for a backend nor at the workspace, valid or not.
        return Ok(Resolved {
            backend: Backend::Local { state_path: request.dir.join(&flag.path) },
            workspace: Workspace {
                name: workspace::DEFAULT.to_owned(),
                origin: "`-state` has no workspaces".to_owned(),
                file: None,
            },
            origin: "`-state`".to_owned(),
            initialised: true,
            locks_alone: false,
            notes: Vec::new(),
            read_from: Vec::new(),
        });
    }
    let data_dir = data_dir::path(request.dir, request.env);
    let named = request.workspace_override.as_deref();
    let workspace = workspace::select(named, request.env, &data_dir)?;
    let mut read_from = Vec::from_iter(workspace.file.clone());
    let mut directorys = || {
        read_from.push(data_dir::record(&data_dir));
        directorys(request, &data_dir)
    };
    let (Found { config, initialised }, mut notes) = match &request.plan_file {
        None => (directorys()?, Vec::new()),
        Some(file) => match plan_file::open(&request.dir.join(file))? {
            PlanFile::Plan(plan) => {
                let notes = notes_on(&plan, file, &data_dir, &workspace);
                (Found::ready(Some(plan.backend)), notes)
            }
            // It says nothing by which it could be told from the directory's own.
            PlanFile::Encrypted => (directorys()?, Vec::new()),
            PlanFile::NotAPlan(why) => {
                let note = format!(
                    "`{}` is not a saved plan ({why}): the directory's own backend applies",
                    file.display()
                );
                (directorys()?, vec![note])
            }
        },
    };
    let origin = config.as_ref().map_or(NO_BACKEND.to_owned(), |config| config.place.clone());
    let backend = backend_of(config.as_ref(), initialised, &workspace.name, request)?;
    let is_own_file = match &backend {
        Backend::Local { state_path } => {
            data_dir::files(&data_dir).iter().any(|own| is_same_file(own, state_path))
        }
        Backend::S3(_) | Backend::Other(_) => false,
    };
    if is_own_file {
        notes.push(
            "the state file is one of the files of the data directory: Terraform locks for itself"
                .to_owned(),
        );
    }
    let is_plain = workspace::is_plain(&workspace.name);
    if !is_plain {
        notes.push(format!(
            "the name of the workspace, from {}, is not text: Terraform locks for itself",
            workspace.origin
        ));
    }
    // Terraform deletes no workspace that is selected, and says so before it locks.
    let is_refused = named.is_some()
        && workspace::select(None, request.env, &data_dir)
            .is_ok_and(|it| it.name == workspace.name);
    let locks_alone = is_own_file || !is_plain || is_refused;
    Ok(Resolved { backend, workspace, origin, initialised, locks_alone, notes, read_from })
}

/// Whether both name one file, also one that does not exist yet.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let in_its_directory = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
        path.canonicalize().ok().or_else(in_its_directory)
    };
    real(one).is_some_and(|one| real(other) == Some(one))
}

/// A backend, and whether Terraform has recorded it.
struct Found {
    config: Option<BackendConfig>,
    initialised: bool,
}

impl Found {
    fn ready(config: Option<BackendConfig>) -> Self {
        Self { config, initialised: true }
    }
}

fn backend_of(
    config: Option<&BackendConfig>,
    initialised: bool,
    workspace: &str,
    request: &BackendQuery<'_>,
) -> Result<Backend, BackendError> {
    match config {
        Some(config) if config.kind == "s3" => {
            let around =
                Surroundings { env: request.env, dir: request.dir, program: request.program };
            Ok(Backend::S3(Box::new(s3::from_config(config, workspace, &around)?)))
        }
        Some(config) if config.kind != "local" => {
            Ok(Backend::Other(OtherBackend::from_config(config, initialised, request.env)))
        }
        local_or_none => {
            let flag = request.state_flag.as_ref().map(|flag| flag.path.as_path());
            let state_path = local::state_path(local_or_none, workspace, flag, request.dir)?;
            Ok(Backend::Local { state_path })
        }
    }
}

/// The directory's own backend; nothing for the local one that needs no configuration.
fn directorys(request: &BackendQuery<'_>, data_dir: &Path) -> Result<Found, BackendError> {
    if let Some(recorded) = data_dir::read_backend(data_dir)? {
        return Ok(Found::ready(Some(recorded)));
    }
    let declared = match hcl::find(request.dir, request.dialect) {
        // Terraform says so in its own words, before it asks for any lock.
        Err(BackendError::BadHcl { .. }) if !request.allow_hcl_fallback => None,
        found => found?,
    };
    let Some(declared) = declared else { return Ok(Found::ready(None)) };
    let init = init_command(request);
    if !request.allow_hcl_fallback {
        let hcl::Declared { kind, place, .. } = declared;
        return Err(BackendError::NotInitialised { place, kind, init });
    }
    let (kind, place) = (declared.kind, declared.place);
    if kind != "s3" && kind != "local" {
        // Its attributes do not matter: there is no lock for it.
        let config = BackendConfig { kind, attributes: serde_json::Map::new(), place };
        return Ok(Found { config: Some(config), initialised: false });
    }
    let config = BackendConfig { kind, attributes: declared.attributes?, place };
    if config.kind == "s3" {
        for missing in ["bucket", "key"] {
            if config.section().text(missing)?.is_none() {
                return Err(BackendError::PartialBackend { place: config.place, missing, init });
            }
        }
    }
    Ok(Found { config: Some(config), initialised: false })
}

/// What is worth knowing about a saved plan: that it goes elsewhere than a new one would.
fn notes_on(plan: &SavedPlan, file: &Path, data_dir: &Path, workspace: &Workspace) -> Vec<String> {
    let name = file.display();
    let made = &plan.backend;
    let mut notes = Vec::new();
    match data_dir::read_backend(data_dir) {
        Ok(Some(own)) if !own.says_the_same(made) => notes.push(format!(
            "the saved plan `{name}` is for the backend {}, and the directory's is {}: the plan's \
             applies",
            made.describe(),
            own.describe()
        )),
        Ok(None) if made.kind != "local" => notes.push(format!(
            "the saved plan `{name}` is for the backend {}, and the directory has none: the plan's \
             applies",
            made.describe()
        )),
        Ok(_) => {}
        // Terraform does not look there for a saved plan.
        Err(error) => notes.push(format!(
            "the saved plan `{name}` is for the backend {}; the directory's own is unknown: {error}",
            made.describe()
        )),
    }
    if plan.workspace != workspace.name {
        notes.push(format!(
            "the saved plan `{name}` was made in the workspace `{}` by Terraform {}, and `{}` is \
             selected: the state of the selected workspace is used",
            plan.workspace, plan.terraform_version, workspace.name
        ));
    }
    notes
}

/// The command that initialises the directory.
fn init_command(request: &BackendQuery<'_>) -> String {
    let program = match request.dialect {
        Dialect::Terraform => "terraform",
        Dialect::OpenTofu => "tofu",
    };
    match request.chdir {
        Some(dir) => {
            let dir = dir.display().to_string();
            format!("{program} -chdir={} init", shell_words::quote(&dir))
        }
        None => format!("{program} init"),
    }
}

#[cfg(test)]
mod tests;
