// An S3 for tests: s3rver's HTTP and XML, over a store in memory that keeps what S3 promises and s3rver's own, of
// files, does not: a PUT is seen whole or not at all, keys are listed in the order of their bytes.
//
//     node s3rver.js FOLDER_WITH_NODE_MODULES BUCKET PORT DATA_FOLDER [KEY.pem CERT.pem]
//
// PORT 0 is any; with DATA_FOLDER ("" = none) objects are there again when it is started again, uploads in parts are not.
// Prints its port and ends with its standard input. What s3rver leaves out is added: every signature (version 4) is
// checked, uploads can be aborted, encoding-type=url, ranges that end at byte 0. GET /-uploads is how many uploads are neither
// completed nor aborted; GET /-fault?… makes requests go wrong: see faults().
'use strict';

const path = require('path');
const crypto = require('crypto');
const fs = require('fs');
const { Readable } = require('stream');

const [folder, bucketName, wantedPort, dataFolder, keyFile, certFile] = process.argv.slice(2);
const modules = path.join(folder, 'node_modules');
const S3rver = require(path.join(modules, 's3rver'));
const S3Error = require(path.join(modules, 's3rver/lib/models/error'));
const S3Object = require(path.join(modules, 's3rver/lib/models/object'));
const S3Bucket = require(path.join(modules, 's3rver/lib/models/bucket'));

// s3rver makes its continuation tokens with DES, which OpenSSL 3 leaves out; thrice with one key, it is the same.
for (const name of ['createCipheriv', 'createDecipheriv']) {
  const original = crypto[name];
  crypto[name] = (cipher, key, iv) =>
    cipher === 'des' ? original('des-ede3-cbc', Buffer.concat([key, key, key]), iv) : original(cipher, key, iv);
}

const SECRETS = { S3RVER: 'S3RVER' };

// --- the store

const md5Of = data => crypto.createHash('md5').update(data).digest('hex');

async function readAll(content) {
  if (Buffer.isBuffer(content)) return content;
  const chunks = [];
  for await (const chunk of content) chunks.push(chunk); // throws when the client goes away
  return Buffer.concat(chunks);
}

class MemoryStore {
  constructor() {
    this.buckets = new Map();
    this.uploads = new Map();
    this.nextUpload = 1;
  }
  reset() {
    this.buckets.clear();
  }
  // An object is a file, seen whole or not at all, named by a hash of its key.
  fileOf(key) {
    return path.join(dataFolder, crypto.createHash('sha256').update(key).digest('hex'));
  }
  keep(bucket, key, object) {
    this.buckets.get(bucket).set(key, object);
    if (!dataFolder) return;
    const file = this.fileOf(key);
    fs.writeFileSync(file + '+', Buffer.concat([Buffer.from(JSON.stringify({ key, md5: object.md5 }) + '\n'), object.data]));
    fs.renameSync(file + '+', file);
  }
  load(bucket) {
    for (const name of dataFolder ? fs.readdirSync(dataFolder).filter(n => !n.endsWith('+')) : []) {
      const all = fs.readFileSync(path.join(dataFolder, name));
      const end = all.indexOf('\n');
      const { key, md5 } = JSON.parse(all.subarray(0, end));
      this.buckets.get(bucket).set(key, { data: all.subarray(end + 1), md5, time: new Date() });
    }
  }
  async listBuckets() {
    return [...this.buckets.keys()].map(name => new S3Bucket(name, new Date()));
  }
  async getBucket(name) {
    return this.buckets.has(name) ? new S3Bucket(name, new Date()) : null;
  }
  async putBucket(name) {
    if (!this.buckets.has(name)) this.buckets.set(name, new Map());
    return this.getBucket(name);
  }
  async deleteBucket(name) {
    this.buckets.delete(name);
  }
  async listObjects(bucket, { startAfter = '', prefix = '', maxKeys = 1000 }) {
    const objects = this.buckets.get(bucket);
    const order = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b));
    const keys = [...objects.keys()].filter(k => k.startsWith(prefix) && order(k, startAfter) > 0).sort(order);
    return {
      objects: keys.slice(0, maxKeys).map(k => new S3Object(bucket, k, null, this.metadataOf(objects.get(k)))),
      commonPrefixes: [],
      isTruncated: keys.length > maxKeys,
    };
  }
  metadataOf(object) {
    return {
      etag: JSON.stringify(object.md5),
      'last-modified': object.time.toUTCString(),
      'content-length': object.data.length,
    };
  }
  async existsObject(bucket, key) {
    return this.buckets.get(bucket).has(key);
  }
  async getObject(bucket, key, options) {
    const found = this.buckets.get(bucket).get(key);
    if (!found) return null;
    const ranged = options && options.start !== undefined;
    const start = ranged ? options.start : 0;
    const end = Math.min(ranged && options.end !== undefined ? options.end : Infinity, found.data.length - 1);
    const none = start > end && ranged;
    const content = none ? null : Readable.from(found.data.length ? [found.data.subarray(start, end + 1)] : []);
    const object = new S3Object(bucket, key, content, this.metadataOf(found));
    if (ranged) object.range = { start, end };
    return object;
  }
  async putObject(object) {
    const data = await readAll(object.content);
    const md5 = md5Of(data);
    this.keep(object.bucket, object.key, { data, md5, time: new Date() });
    return { size: data.length, md5 };
  }
  async deleteObject(bucket, key) {
    this.buckets.get(bucket).delete(key);
    if (dataFolder) fs.rmSync(this.fileOf(key), { force: true });
  }
  async initiateUpload(bucket, key, uploadId) {
    this.uploads.set(uploadId, { bucket, key, parts: new Map() });
  }
  uploadOf(uploadId) {
    const upload = this.uploads.get(uploadId);
    if (!upload) throw new S3Error('NoSuchUpload', 'The specified upload does not exist.');
    return upload;
  }
  async putPart(bucket, uploadId, number, content) {
    const upload = this.uploadOf(uploadId);
    const data = await readAll(content);
    const md5 = md5Of(data);
    upload.parts.set(Number(number), { data, md5 });
    return { size: data.length, md5 };
  }
  async putObjectMultipart(bucket, uploadId, parts) {
    const upload = this.uploadOf(uploadId);
    const found = parts.map(({ number, etag }) => {
      const part = upload.parts.get(number);
      if (!part || part.md5 !== etag) throw new S3Error('InvalidPart', 'A part is missing, or has another ETag.');
      return part;
    });
    const small = found.slice(0, -1).some(part => part.data.length < 5 << 20);
    if (small) throw new S3Error('EntityTooSmall', 'Your proposed upload is smaller than the minimum allowed size');
    const data = Buffer.concat(found.map(part => part.data));
    const md5 = `${md5Of(Buffer.concat(found.map(part => Buffer.from(part.md5, 'hex'))))}-${found.length}`;
    this.keep(upload.bucket, upload.key, { data, md5, time: new Date() });
    this.uploads.delete(uploadId);
    return { size: data.length, md5 };
  }
  abortUpload(uploadId) {
    this.uploadOf(uploadId);
    this.uploads.delete(uploadId);
  }
  async getSubresource() {
    return null;
  }
}

// --- signatures, version 4

const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest();
const encode = text => encodeURIComponent(text).replace(/[!'()*]/g, c => '%' + c.charCodeAt(0).toString(16).toUpperCase());

// From the request alone, not from what the client says it signed.
function canonicalRequest(ctx, signedHeaders) {
  const [rawPath, rawQuery = ''] = ctx.req.url.split('?');
  const pathname = decodeURIComponent(rawPath).split('/').map(encode).join('/');
  const query = rawQuery
    .split('&')
    .filter(Boolean)
    .map(pair => pair.split('=').map(part => encode(decodeURIComponent(part))))
    .map(([name, value = '']) => `${name}=${value}`)
    .sort()
    .join('&');
  const headers = signedHeaders.map(name => `${name}:${ctx.headers[name].trim().replace(/ +/g, ' ')}\n`).join('');
  const payload = ctx.headers['x-amz-content-sha256'];
  return [ctx.method, pathname, query, headers, signedHeaders.join(';'), payload].join('\n');
}

function checkSignature(ctx) {
  const match = /^AWS4-HMAC-SHA256 Credential=([^,]+), *SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})$/.exec(
    ctx.headers.authorization || '',
  );
  if (!match) throw new S3Error('AccessDenied', 'Access Denied');
  const [id, date, region, service] = match[1].split('/');
  const secret = SECRETS[id];
  if (!secret) throw new S3Error('InvalidAccessKeyId', 'The AWS Access Key Id you provided does not exist in our records.');
  const signed = match[2].split(';');
  const must = ['host', ...Object.keys(ctx.headers).filter(name => name.startsWith('x-amz-'))];
  const sha = crypto.createHash('sha256').update(canonicalRequest(ctx, signed)).digest('hex');
  const text = ['AWS4-HMAC-SHA256', ctx.headers['x-amz-date'], `${date}/${region}/${service}/aws4_request`, sha].join('\n');
  const key = [date, region, service, 'aws4_request'].reduce(hmac, 'AWS4' + secret);
  if (!must.every(name => signed.includes(name)) || hmac(key, text).toString('hex') !== match[3])
    throw new S3Error('SignatureDoesNotMatch', 'The request signature we calculated does not match the one you provided.');
}

// --- what goes wrong

// GET /-fault?kind=KIND&method=M&part=TEXT&times=N&status=S&code=C&ms=T: from now on N requests (0: all) of method M, whose
// URL has TEXT in it (each may be left out), go wrong. An empty query ends it. Answers how many went wrong since the last.
//   error  HTTP status S and S3's code C, without asking the store
//   slow   T milliseconds later
//   short  half of the body, then the connection closes
//   flip   the last bit of the body is another
function faults() {
  let fault = {}, hits = 0;
  const strikes = ctx =>
    fault.kind &&
    (!fault.method || fault.method === ctx.method) &&
    (!fault.part || ctx.req.url.includes(fault.part)) &&
    (fault.times === '0' || hits < Number(fault.times)) &&
    ++hits > 0;
  return async (ctx, next) => {
    if (ctx.path === '/-fault') {
      ctx.body = String(hits);
      fault = ctx.query;
      hits = 0;
      return;
    }
    const now = fault; // it may be another one when the answer is there
    if (!strikes(ctx)) return next();
    if (now.kind === 'error') {
      ctx.status = Number(now.status);
      ctx.body = `<Error><Code>${now.code}</Code><Message>the test wants it</Message></Error>`;
      return;
    }
    if (now.kind === 'slow') await new Promise(resolve => setTimeout(resolve, Number(now.ms)));
    await next();
    if (now.kind !== 'short' && now.kind !== 'flip') return;
    const data = Buffer.from(await readAll(ctx.body));
    if (now.kind === 'flip') data[data.length - 1] ^= 1;
    ctx.body = data;
    if (now.kind === 'flip') return;
    ctx.respond = false;
    ctx.res.writeHead(ctx.status, { ...ctx.response.headers, 'content-length': data.length });
    ctx.res.write(data.subarray(0, data.length / 2), () => ctx.res.socket.destroy());
  };
}

// --- what s3rver leaves out

function addMissing(store) {
  return async (ctx, next) => {
    if (ctx.path === '/-uploads') {
      ctx.body = String(store.uploads.size);
      return;
    }
    checkSignature(ctx);
    if (ctx.method === 'DELETE' && ctx.query.uploadId) {
      store.abortUpload(ctx.query.uploadId);
      ctx.status = 204;
      return;
    }
    await next();
    const list = ctx.body && ctx.body.ListBucketResult;
    if (list && ctx.query['encoding-type'] === 'url') {
      const encoded = text => encode(text).replace(/%2F/g, '/').replace(/%20/g, '+');
      for (const entry of list.Contents) entry.Key = encoded(entry.Key);
      list.EncodingType = 'url';
    }
  };
}

async function main() {
  const options = { directory: '/nonexistent', port: Number(wantedPort), address: '127.0.0.1', silent: true, serviceEndpoint: 'localhost' };
  if (keyFile) Object.assign(options, { key: fs.readFileSync(keyFile), cert: fs.readFileSync(certFile) });
  const server = new S3rver(options);
  const store = new MemoryStore();
  server.store = server.context.store = store;
  server.on('error', error => console.error(error)); // clients that go away, among others
  server.middleware.splice(2, 0, addMissing(store)); // inside of what turns bodies into XML
  server.middleware.unshift(faults());
  await store.putBucket(bucketName);
  store.load(bucketName);
  const { port } = await server.run();
  console.log(port);
  process.stdin.on('end', () => process.exit(0)).resume();
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
