//! The servers of the tests, in this very process on free loopback ports, each started once; and
//! directories for a real Terraform that uses them.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Once, OnceLock};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use tempfile::TempDir;
use tfwrap::backend::{AwsEndpoints, AwsSettings};

/// The region of everything here.
pub(crate) const REGION: &str = "eu-west-1";
/// Key and secret of everything here.
pub(crate) const SECRET: &str = "test";
/// The bucket of [`s3_backend_dir`].
pub(crate) const BUCKET: &str = "tfstate";

/// A DynamoDB server.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Where it is.
    pub(crate) url: String,
}

/// The DynamoDB emulator of this process.
pub(crate) fn dynamodb() -> &'static Endpoint {
    static SERVER: OnceLock<Endpoint> = OnceLock::new();
    SERVER.get_or_init(|| {
        let database = dynoxide::Database::memory().unwrap();
        let address = serve(|listener| dynoxide::server::serve_on(listener, database));
        Endpoint { url: format!("http://{address}") }
    })
}

/// What this variable names for the tests: a further server, or several, separated by spaces.
pub(crate) fn named(variable: &str) -> Vec<String> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    let urls = std::env::var(variable).unwrap_or_default();
    urls.split_whitespace().map(str::to_owned).collect()
}

impl Endpoint {
    /// Settings of a client of this server.
    pub(crate) fn settings(&self) -> AwsSettings {
        aws_settings(&self.url)
    }

    /// The SDK's own client, for a look behind the store's back.
    pub(crate) fn client(&self) -> aws_sdk_dynamodb::Client {
        let credentials =
            aws_sdk_dynamodb::config::Credentials::new(SECRET, SECRET, None, None, "test");
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
            .region(aws_sdk_dynamodb::config::Region::new(REGION))
            .endpoint_url(&self.url)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .credentials_provider(credentials)
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }

    /// Creates a lock table as Terraform's documentation has it.
    pub(crate) async fn create_lock_table(&self, name: &str) {
        self.create_table(name, "LockID").await;
    }

    /// Creates a table with this hash key, a string.
    pub(crate) async fn create_table(&self, name: &str, hash_key: &str) {
        let attribute = AttributeDefinition::builder()
            .attribute_name(hash_key)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .unwrap();
        let schema = KeySchemaElement::builder()
            .attribute_name(hash_key)
            .key_type(KeyType::Hash)
            .build()
            .unwrap();
        self.client()
            .create_table()
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute)
            .key_schema(schema)
            .send()
            .await
            .unwrap();
    }

    /// Stores an item as it is.
    pub(crate) async fn put_raw(&self, table: &str, item: HashMap<String, AttributeValue>) {
        self.client().put_item().table_name(table).set_item(Some(item)).send().await.unwrap();
    }

    /// The same, of texts, beside the lock ID.
    pub(crate) async fn put_texts(&self, table: &str, lock_id: &str, texts: &[(&str, &str)]) {
        let texts = [("LockID", lock_id)].into_iter().chain(texts.iter().copied());
        let item = texts.map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned())));
        self.put_raw(table, item.collect()).await;
    }

    /// Reads an item as it is.
    pub(crate) async fn get_raw(
        &self,
        table: &str,
        lock_id: &str,
    ) -> Option<HashMap<String, AttributeValue>> {
        let key = AttributeValue::S(lock_id.to_owned());
        let answer = self
            .client()
            .get_item()
            .table_name(table)
            .key("LockID", key)
            .consistent_read(true)
            .send()
            .await
            .unwrap();
        answer.item
    }
}

/// Settings of a client whose requests all go to `url`.
pub(crate) fn aws_settings(url: &str) -> AwsSettings {
    AwsSettings {
        region: Some(REGION.to_owned()),
        access_key: Some(SECRET.to_owned()),
        secret_key: Some(SECRET.to_owned()),
        endpoints: AwsEndpoints {
            dynamodb: Some(url.to_owned()),
            s3: Some(url.to_owned()),
            sts: Some(url.to_owned()),
            sso: Some(url.to_owned()),
        },
        skip_metadata_api_check: Some(true),
        use_path_style: true,
        ..AwsSettings::default()
    }
}

/// The S3 emulator. It does not honour conditions atomically: never a lock store.
#[derive(Debug)]
pub(crate) struct S3 {
    /// Where it is.
    pub(crate) url: String,
    root: PathBuf,
}

/// The S3 emulator of this process.
pub(crate) fn s3() -> &'static S3 {
    static SERVER: OnceLock<S3> = OnceLock::new();
    SERVER.get_or_init(|| {
        let root = s3_root();
        let files = s3s_fs::FileSystem::new(&root).unwrap();
        let address = serve_s3(files);
        S3 { url: format!("http://{address}"), root }
    })
}

/// Serves S3 to whoever signs with [`SECRET`].
pub(crate) fn serve_s3(store: impl s3s::S3) -> SocketAddr {
    let mut builder = S3ServiceBuilder::new(store);
    builder.set_auth(SimpleAuth::from_single(SECRET, SECRET));
    let service = builder.build();
    serve(|listener| async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let service = service.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                // A client that goes away in the middle is no failure of the server.
                drop(server.serve_connection(TokioIo::new(connection), service).await);
            });
        }
    })
}

impl S3 {
    /// Creates a bucket, if there is none of this name.
    pub(crate) fn create_bucket(&self, name: &str) {
        std::fs::create_dir_all(self.root.join(name)).unwrap();
    }

    /// Stores an object.
    pub(crate) fn put(&self, bucket: &str, key: &str, body: &[u8]) {
        let path = self.root.join(bucket).join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, body).unwrap();
    }

    /// Removes an object.
    pub(crate) fn remove(&self, bucket: &str, key: &str) {
        std::fs::remove_file(self.root.join(bucket).join(key)).unwrap();
    }

    /// Reads an object.
    pub(crate) fn get(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.root.join(bucket).join(key)).ok()
    }
}

/// A directory per process, for nothing in a static is ever dropped; those of dead ones go.
fn s3_root() -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("s3");
    std::fs::create_dir_all(&all).unwrap();
    for entry in std::fs::read_dir(&all).unwrap() {
        let entry = entry.unwrap();
        if !Path::new("/proc").join(entry.file_name()).exists() {
            // Another test process may be faster.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
    let root = all.join(std::process::id().to_string());
    std::fs::create_dir_all(&root).unwrap();
    root
}

/// Runs a server in a thread of its own for as long as the process lives.
pub(crate) fn serve<F: Future + 'static>(
    server: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            server(tokio::net::TcpListener::from_std(listener).unwrap()).await;
        });
    });
    address
}

/// A resource that runs `var.command` at every apply. Needs no provider from a registry.
pub(crate) const RESOURCE: &str = r#"
variable "command" {
  type    = string
  default = "true"
}

resource "terraform_data" "work" {
  triggers_replace = timestamp()
  provisioner "local-exec" {
    command = var.command
  }
}
"#;

/// A directory for Terraform with its state beside it: no `init` needed.
pub(crate) fn local_backend_dir() -> TempDir {
    need_terraform();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("main.tf"), RESOURCE).unwrap();
    dir
}

/// A directory for Terraform with its state in [`BUCKET`] under `key` and its lock in `table`,
/// which must exist. Run `terraform init` first.
pub(crate) fn s3_backend_dir(key: &str, table: &str) -> TempDir {
    s3_backend_dir_at(&dynamodb().url, key, table)
}

/// The same, with the table reached by this URL, such as a proxy's.
pub(crate) fn s3_backend_dir_at(dynamodb: &str, key: &str, table: &str) -> TempDir {
    s3().create_bucket(BUCKET);
    let s3 = &s3().url;
    let lines = format!(
        r#"dynamodb_table              = "{table}"
    endpoints                   = {{ s3 = "{s3}", dynamodb = "{dynamodb}" }}"#
    );
    dir_of_s3_backend(key, &lines)
}

/// A directory for Terraform with its state in [`BUCKET`] under `key`, and these lines in its backend.
pub(crate) fn dir_of_s3_backend(key: &str, lines: &str) -> TempDir {
    let dir = local_backend_dir();
    let backend = format!(
        r#"
terraform {{
  backend "s3" {{
    bucket                      = "{BUCKET}"
    key                         = "{key}"
    region                      = "{REGION}"
    use_path_style              = true
    skip_credentials_validation = true
    skip_requesting_account_id  = true
    skip_metadata_api_check     = true
    skip_region_validation      = true
    {lines}
  }}
}}
"#
    );
    std::fs::write(dir.path().join("backend.tf"), backend).unwrap();
    dir
}

/// `terraform` in `dir`, with nothing of the tests' own environment but the `PATH`.
pub(crate) fn terraform(dir: &Path) -> Command {
    need_terraform();
    let mut command = Command::new("terraform");
    clean(&mut command, dir);
    command
}

/// Fails where there is no Terraform: no test is skipped.
fn need_terraform() {
    #[expect(clippy::disallowed_methods, reason = "terraform must be found")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("terraform").is_file());
    assert!(found, "the tests need Terraform: `terraform` is not on PATH");
}

/// Lets whatever the tests start hear all signals, however the tests were started: a script's
/// background job ignores SIGINT, one under `nohup` SIGHUP, and children inherit that, but no handler.
pub(crate) fn heed_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD, SIGTSTP] {
            if ignored & (1 << (signal - 1)) != 0 {
                // Ignored as before: nobody looks at the flag.
                signal_hook::flag::register(signal, Arc::default()).unwrap();
            }
        }
    });
}

/// Gives `command` the environment of the tests: credentials of the emulators, no configuration
/// of the machine's.
pub(crate) fn clean(command: &mut Command, dir: &Path) {
    heed_signals();
    #[expect(clippy::disallowed_methods, reason = "terraform and its shell must be found")]
    let path = std::env::var_os("PATH").unwrap();
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", path)
        .env("HOME", dir)
        .env("AWS_ACCESS_KEY_ID", SECRET)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("CHECKPOINT_DISABLE", "1")
        .env("TF_IN_AUTOMATION", "1")
        .env("TF_INPUT", "0");
}
