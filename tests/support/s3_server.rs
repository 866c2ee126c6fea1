//! An S3 server in this process that looks at the conditions of requests, each at once with what it is
//! for; and servers that look at some of them only. Its buckets keep versions, and objects written
//! with a customer's key are given to whoever has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::StreamExt as _;
use s3s::dto::{
    CommonPrefix, DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition, GetObjectInput,
    GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object, PutObjectInput, PutObjectOutput, StreamingBlob,
};
use s3s::{Body, S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tempfile::TempDir;

use super::servers::{self, BUCKET, serve_s3};

/// As many objects as one answer to a listing has.
const PAGE: usize = 1000;

/// What a server does with conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// As AWS: what is not there answers 404.
    Aws,
    /// As `SeaweedFS`: what is not there answers 412.
    Seaweed,
    /// As localbucket and, nearly, Ceph: a create is refused as it should be, nothing else.
    CreatesOnly,
    /// As Garage: whatever is asked for is done.
    None,
    /// Names no version of what it keeps.
    NoVersions,
    /// As AWS, and nobody may remove anything.
    NoDeletes,
}

/// One object, as it was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    pub(crate) body: Vec<u8>,
    etag: String,
    pub(crate) content_type: Option<String>,
    pub(crate) acl: Option<String>,
    pub(crate) tags: Option<String>,
    /// `AES256`, or `aws:kms` with the key.
    pub(crate) encryption: Option<String>,
    pub(crate) kms_key: Option<String>,
    /// The digest of the customer's key.
    pub(crate) customer_key: Option<String>,
    pub(crate) sha256: Option<String>,
    pub(crate) crc32: Option<String>,
}

/// The server.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manners: Manners,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// All versions, the last of which counts; nothing is a delete marker.
    objects: BTreeMap<String, Vec<Option<Written>>>,
    writes: u64,
}

impl Content {
    fn current(&self, key: &str) -> Option<&Written> {
        self.objects.get(key)?.last()?.as_ref()
    }
}

/// A server of these manners, with the one bucket [`BUCKET`].
pub(crate) fn start(manners: Manners) -> Bucket {
    let shared = Arc::new(Shared { manners, content: Mutex::default() });
    let address = serve_s3(Server(Arc::clone(&shared)));
    Bucket { url: format!("http://{address}"), shared }
}

/// The one that is as AWS, started once.
pub(crate) fn aws_like() -> &'static Bucket {
    static SERVER: OnceLock<Bucket> = OnceLock::new();
    SERVER.get_or_init(|| start(Manners::Aws))
}

impl Bucket {
    pub(crate) fn get(&self, key: &str) -> Option<Written> {
        self.shared.content.lock().unwrap().current(key).cloned()
    }

    /// The text of an object.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(|it| String::from_utf8(it.body).unwrap())
    }

    /// Stores an object behind everybody's back.
    pub(crate) fn put(&self, key: &str, body: &[u8]) {
        let written = Written { body: body.to_vec(), ..Written::default() };
        self.shared.write(&mut self.shared.content.lock().unwrap(), key, written);
    }

    /// The keys of what is there that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let content = self.shared.content.lock().unwrap();
        let is_there = |key: &&String| key.starts_with(prefix) && content.current(key).is_some();
        content.objects.keys().filter(is_there).cloned().collect()
    }

    /// How many versions an object has, delete markers among them.
    pub(crate) fn versions(&self, key: &str) -> usize {
        self.shared.content.lock().unwrap().objects.get(key).map_or(0, Vec::len)
    }
}

/// A directory for Terraform with its state and its lock file in [`BUCKET`] at this server, and these
/// lines in its backend. Run `terraform init` first.
pub(crate) fn backend_dir(url: &str, key: &str, lines: &str) -> TempDir {
    let lines = format!(
        r#"use_lockfile                = true
    endpoints                   = {{ s3 = "{url}" }}
    {lines}"#
    );
    servers::dir_of_s3_backend(key, &lines)
}

impl Shared {
    fn write(&self, content: &mut Content, key: &str, written: Written) -> Option<ETag> {
        content.writes += 1;
        // Not a digest of the content, as AWS' is none of what it encrypts with a key.
        let etag = format!("{:032x}", content.writes);
        let written = Written { etag: etag.clone(), ..written };
        content.objects.entry(key.to_owned()).or_default().push(Some(written));
        (self.manners != Manners::NoVersions).then_some(ETag::Strong(etag))
    }

    /// Whether a write or a remove may go on.
    fn expect(&self, current: Option<&Written>, only: Option<&ETagCondition>) -> S3Result<()> {
        let Some(ETagCondition::ETag(etag)) = only else { return Ok(()) };
        match (self.manners, current) {
            (Manners::CreatesOnly | Manners::None, _) => Ok(()),
            (Manners::Seaweed, None) => Err(s3_error!(PreconditionFailed)),
            (_, None) => Err(s3_error!(NoSuchKey)),
            (_, Some(current)) if current.etag == etag.value() => Ok(()),
            (_, Some(_)) => Err(s3_error!(PreconditionFailed)),
        }
    }
}

fn expect_customer_key(written: &Written, digest: Option<&String>) -> S3Result<()> {
    if written.customer_key.as_ref() == digest {
        return Ok(());
    }
    Err(s3_error!(InvalidRequest, "the object was stored using a form of server side encryption"))
}

/// What answers.
#[derive(Debug)]
struct Server(Arc<Shared>);

#[async_trait::async_trait]
impl S3 for Server {
    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let Self(shared) = self;
        let mut input = req.input;
        let mut body = Vec::new();
        if let Some(mut stream) = input.body.take() {
            while let Some(part) = stream.next().await {
                body.extend_from_slice(&part.map_err(|_| s3_error!(IncompleteBody))?);
            }
        }
        if input.bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        if input.key.len() > 1024 {
            return Err(s3_error!(KeyTooLongError));
        }
        let mut content = shared.content.lock().unwrap();
        let current = content.current(&input.key);
        if shared.manners != Manners::None
            && current.is_some()
            && input.if_none_match.as_ref().is_some_and(ETagCondition::is_any)
        {
            return Err(s3_error!(PreconditionFailed));
        }
        shared.expect(current, input.if_match.as_ref())?;
        let written = Written {
            body,
            etag: String::new(),
            content_type: input.content_type,
            acl: input.acl.map(|it| it.as_str().to_owned()),
            tags: input.tagging,
            encryption: input.server_side_encryption.map(|it| it.as_str().to_owned()),
            kms_key: input.ssekms_key_id,
            customer_key: input.sse_customer_key_md5,
            sha256: input.checksum_sha256,
            crc32: input.checksum_crc32,
        };
        let e_tag = shared.write(&mut content, &input.key, written);
        Ok(S3Response::new(PutObjectOutput { e_tag, ..PutObjectOutput::default() }))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let (Self(shared), input) = (self, req.input);
        let content = shared.content.lock().unwrap();
        let Some(written) = content.current(&input.key) else { return Err(s3_error!(NoSuchKey)) };
        expect_customer_key(written, input.sse_customer_key_md5.as_ref())?;
        let all = written.body.len() as u64;
        let range = match input.range {
            Some(range) => Some(range.check(all).map_err(|_| s3_error!(InvalidRange))?),
            None => None,
        };
        let part = range.clone().unwrap_or(0..all);
        let bounds = usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap();
        let body = Body::from(written.body[bounds].to_vec());
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::from(body)),
            content_length: i64::try_from(part.end - part.start).ok(),
            content_range: range.map(|it| format!("bytes {}-{}/{all}", it.start, it.end - 1)),
            e_tag: shared.named(written),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let (Self(shared), input) = (self, req.input);
        let content = shared.content.lock().unwrap();
        let Some(written) = content.current(&input.key) else { return Err(s3_error!(NoSuchKey)) };
        expect_customer_key(written, input.sse_customer_key_md5.as_ref())?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: i64::try_from(written.body.len()).ok(),
            e_tag: shared.named(written),
            ..HeadObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (Self(shared), input) = (self, req.input);
        if shared.manners == Manners::NoDeletes && !input.key.contains(".tfwrap/") {
            return Err(s3_error!(AccessDenied));
        }
        let mut content = shared.content.lock().unwrap();
        shared.expect(content.current(&input.key), input.if_match.as_ref())?;
        content.objects.entry(input.key).or_default().push(None);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let (Self(shared), input) = (self, req.input);
        if input.bucket != BUCKET {
            return Err(S3ErrorCode::NoSuchBucket.into());
        }
        let content = shared.content.lock().unwrap();
        let prefix = input.prefix.unwrap_or_default();
        let after = input.continuation_token.or(input.start_after).unwrap_or_default();
        let (mut objects, mut prefixes, mut next) = (Vec::new(), BTreeSet::new(), None);
        for key in content.objects.keys() {
            let Some(rest) = key.strip_prefix(&prefix) else { continue };
            if content.current(key).is_none() || *key <= after {
                continue;
            }
            if objects.len() == PAGE {
                next = objects.last().and_then(|object: &Object| object.key.clone());
                break;
            }
            match input.delimiter.as_ref().and_then(|it| rest.split_once(it.as_str())) {
                Some((part, _)) => {
                    prefixes.insert(format!("{prefix}{part}/"));
                }
                None => objects.push(Object { key: Some(key.clone()), ..Object::default() }),
            }
        }
        let prefixes = prefixes.into_iter().map(|it| CommonPrefix { prefix: Some(it) });
        Ok(S3Response::new(ListObjectsV2Output {
            contents: Some(objects),
            common_prefixes: Some(prefixes.collect()),
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            ..ListObjectsV2Output::default()
        }))
    }
}

impl Shared {
    fn named(&self, written: &Written) -> Option<ETag> {
        (self.manners != Manners::NoVersions).then(|| ETag::Strong(written.etag.clone()))
    }
}
