package dev.pocketvlm.store

import java.io.File
import java.io.InputStream

/**
 * Where a bundle's files lie: `url/manifest.json` and each file that it names beside it.
 *
 * @property url begins with https and has the revision in it, so that what it leads to does not change
 * @property headers sent with each request to this host (a token), and not to those that it redirects to
 * @property allowHttp lets [url] begin with http: for a server on one's own machine
 * @throws IllegalArgumentException [url] is none that a bundle can be fetched from
 */
public class BundleSource(
    url: String,
    public val headers: Map<String, String> = emptyMap(),
    public val allowHttp: Boolean = false,
) {
    public val url: String = url.trimEnd('/')

    init {
        val isAllowed = url.startsWith("https://") || (allowHttp && url.startsWith("http://"))
        require(isAllowed) { "the address of a bundle must begin with https://, not '${url.take(80)}'" }
        require(url.none { it == '?' || it == '#' || it <= ' ' }) {
            "the address of a bundle is that of its folder, without ?, # and spaces: '${url.take(80)}'"
        }
    }
}

/** What a fetch is at. */
public enum class FetchStep {
    /** It waits for another fetch of the same bundle, or asks for the manifest. */
    MANIFEST,

    /** Files are coming. */
    FILES,

    /** A file is there and its SHA-256 is computed. */
    CHECK,

    /** The server failed; the store asks again in a moment. */
    RETRY,

    /** The bundle is in its place. */
    INSTALLED,
}

/**
 * How far a fetch is.
 *
 * @property file the file that is being fetched or checked; null before and after
 * @property bytesDone bytes on the disk, those of earlier fetches included; fewer than before where a file begins anew
 * @property bytesTotal bytes of all files; 0 until the manifest is there
 * @property installed the bundle, with [FetchStep.INSTALLED]; null before
 */
public class FetchProgress internal constructor(
    public val step: FetchStep,
    public val file: String?,
    public val bytesDone: Long,
    public val bytesTotal: Long,
    public val installed: InstalledBundle? = null,
)

/**
 * A bundle that is whole and in its place.
 *
 * @property name what the store calls it: the SHA-256 of its manifest
 * @property model what the exported model is called
 * @property directory what `PocketVlm.open` takes
 * @property bytes of all its files, the manifest included
 */
public class InstalledBundle internal constructor(
    public val name: String,
    public val model: String,
    public val directory: File,
    public val bytes: Long,
)

/** Where the files of a bundle's parts come from, for [BundleStore.assemble]: Android's `AssetManager`, for one. */
public fun interface PartSource {
    /** The whole of a file of the bundle, or null where this source does not have it; the store closes it. */
    public fun open(name: String): InputStream?
}
