//! Whether two calls mean one lock, as far as can be told without asking a store.

use super::{LockTarget, StoreSpec};

impl LockTarget {
    /// What the lock is, whoever asks for it: where it is and its key, and not by which credentials. Two
    /// accounts with a table of one name in one region are not told apart.
    #[must_use]
    pub fn identity(&self) -> String {
        let at = |own: &Option<String>, aws: &crate::backend::AwsSettings| {
            let endpoint = own.as_deref().or_else(|| aws.env.get("AWS_ENDPOINT_URL"));
            endpoint.unwrap_or_default().trim_end_matches('/').to_owned()
        };
        match &self.store {
            StoreSpec::DynamoDb { aws, .. } => {
                let region = aws.region.as_deref().unwrap_or_default();
                format!("{} {region} {}", self.url(), at(&aws.endpoints.dynamodb, aws))
            }
            // No two buckets have one name, whatever their regions.
            StoreSpec::S3 { aws, .. } => format!("{} {}", self.url(), at(&aws.endpoints.s3, aws)),
            StoreSpec::File { .. } | StoreSpec::LocalState { .. } => self.at_real_path().url(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::env::Env;
    use crate::settings::LockUrl;

    fn identity(url: &str, env: &[(&str, &str)]) -> String {
        let env: Env = env.iter().copied().collect();
        LockTarget::of_url(&LockUrl::parse(url).unwrap(), &env, Path::new("/")).unwrap().identity()
    }

    #[test]
    fn where_it_is_counts_and_who_asks_does_not() {
        let item = |env: &[(&str, &str)]| identity("dynamodb://t/k?region=eu-west-1", env);
        let object = |env: &[(&str, &str)]| identity("s3://b/k.tflock?region=eu-west-1", env);
        for same in [("AWS_PROFILE", "p"), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_REGION", "us-east-1")]
        {
            assert_eq!(item(&[]), item(&[same]), "{same:?}");
            assert_eq!(object(&[]), object(&[same]), "{same:?}");
        }
        let elsewhere = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")];
        assert_ne!(item(&[]), item(&elsewhere));
        assert_ne!(object(&[]), object(&elsewhere));
        let own = [("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")];
        assert_eq!(object(&own), object(&elsewhere), "a slash at the end");
        assert_eq!(item(&[]), item(&own));
        assert_ne!(item(&[]), identity("dynamodb://t/k?region=us-east-1", &[]));
        assert_eq!(object(&[]), identity("s3://b/k.tflock?region=us-east-1", &[]));
        assert_ne!(item(&[]), identity("dynamodb://t/l?region=eu-west-1", &[]));
    }

    #[test]
    fn of_a_state_its_file_counts() {
        let top = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("state", top.path().join("link")).unwrap();
        let of = |name: &str| LockTarget::of_state_file(&top.path().join(name)).identity();
        assert_eq!(of("link"), of("state"));
        assert_ne!(of("other"), of("state"));
    }
}
