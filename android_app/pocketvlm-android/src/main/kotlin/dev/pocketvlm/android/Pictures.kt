package dev.pocketvlm.android

import android.content.Context
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Build
import dev.pocketvlm.Image
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.bundle.oneLine
import dev.pocketvlm.bundle.oneLineOf
import java.io.ByteArrayOutputStream
import java.io.IOException
import java.io.InputStream
import java.nio.ByteBuffer

/** Of a picture's file, bytes. */
private const val MAX_ENCODED = 64 shl 20

/** Of a picture's file: a JPEG is decoded row by row, other formats may need all of it at once. */
private const val MAX_JPEG_PIXELS = 256L shl 20
private const val MAX_OTHER_PIXELS = 128L shl 20

/** Pixels that a decoded picture has at most: 48 MiB of Java heap, of which an app has some 256. */
private const val DECODED_PIXELS = 16 shl 20

/**
 * A picture that another app, the photo picker or the camera names: JPEG, PNG, WebP, GIF's first frame, and HEIF and AVIF
 * where the device reads them. Upright, as its EXIF data says (before Android 9: a JPEG's), in sRGB, over white where it is
 * transparent. One of more than [mostPixels] is decoded at a half, a quarter, and so on of its sides, so that a picture of
 * 12,000 x 9,000 does not take 300 MB; models look at far fewer.
 *
 * Blocks while it reads and decodes, some hundred milliseconds for a photo: never call it on the main thread. The app needs
 * to be allowed to read the Uri.
 *
 * @throws ImageUnusable it cannot be read, is no picture, is damaged or cut, or its file is larger than 64 MiB or
 *   256 Mi pixels (formats but JPEG: 128 Mi)
 * @throws NoMemory there is no room for it
 */
public fun Image.Companion.of(context: Context, uri: Uri, mostPixels: Int = DECODED_PIXELS): Image {
    val bytes = try {
        val stream = context.contentResolver.openInputStream(uri) ?: throw IOException("its provider gives nothing")
        stream.use(::readBounded)
    } catch (error: IOException) {
        throw unreadable(uri, error)
    } catch (error: RuntimeException) { // a provider's own, and SecurityException
        throw unreadable(uri, error)
    } catch (error: OutOfMemoryError) {
        throw NoMemory("a picture's file", MAX_ENCODED.toLong(), freeHeap(), error)
    }
    return encoded(bytes, mostPixels)
}

/** As [of] a Uri, the bytes of a picture's file. Errors, threads: as there. */
public fun Image.Companion.encoded(bytes: ByteArray, mostPixels: Int = DECODED_PIXELS): Image {
    require(mostPixels >= 1) { "mostPixels must be at least 1, not $mostPixels" }
    if (bytes.size > MAX_ENCODED) throw tooLong()
    val hasNoDecoder = Build.VERSION.SDK_INT < Build.VERSION_CODES.P
    if (hasNoDecoder || isTurnedPng(bytes)) return factoryDecoded(bytes, mostPixels)
    return decoded(ImageDecoder.createSource(ByteBuffer.wrap(bytes)), mostPixels)
}

/**
 * As [of] a Uri, any source of an `ImageDecoder`: an asset, a resource, a file. From Android 9 (API 28) on. Bytes of the
 * file are not limited here, and a PNG's EXIF data is not looked at. Errors, threads: as there.
 */
public fun Image.Companion.of(source: ImageDecoder.Source, mostPixels: Int = DECODED_PIXELS): Image {
    require(mostPixels >= 1) { "mostPixels must be at least 1, not $mostPixels" }
    return decoded(source, mostPixels)
}

private fun decoded(source: ImageDecoder.Source, mostPixels: Int): Image = unusableIfDamaged {
    ImageDecoder.decodeBitmap(source) { decoder, info, _ ->
        val size = info.size
        decoder.setTargetSampleSize(sampleOf(size.width, size.height, info.mimeType, mostPixels))
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
    }
}

/** Makes an image of the bitmap that [decode] gives. Decoders throw nearly anything on what is no picture. */
internal fun unusableIfDamaged(decode: () -> Bitmap): Image {
    val bitmap = try {
        decode()
    } catch (error: IOException) {
        throw damaged(error)
    } catch (error: RefusedSize) {
        throw ImageUnusable(error.line)
    } catch (error: RuntimeException) {
        throw damaged(error)
    } catch (error: OutOfMemoryError) {
        throw NoMemory("a picture", DECODED_PIXELS * 4L, freeHeap(), error)
    }
    try {
        return Image.of(bitmap)
    } finally {
        bitmap.recycle()
    }
}

/** Passes through callbacks of a decoder, as a checked exception could not. */
internal class RefusedSize(val line: String) : RuntimeException(line)

/** The power of two by which both sides are divided; more are decoded at a cost that depends on the file. */
internal fun sampleOf(width: Int, height: Int, mimeType: String?, mostPixels: Int): Int {
    val pixels = width.toLong() * height
    val most = if (mimeType == "image/jpeg") MAX_JPEG_PIXELS else MAX_OTHER_PIXELS
    if (pixels > most) throw RefusedSize("a picture of $width x $height has more than $most pixels")
    var sample = 1
    while (isTooLarge(width / sample, height / sample, mostPixels)) sample *= 2
    return sample
}

private fun isTooLarge(width: Int, height: Int, mostPixels: Int): Boolean =
    width.toLong() * height > mostPixels || maxOf(width, height) > Image.MAX_SIDE_PIXELS

/** A stream that has no end ends as well. */
private fun readBounded(stream: InputStream): ByteArray {
    val bytes = ByteArrayOutputStream()
    val chunk = ByteArray(1 shl 16)
    while (true) {
        val count = stream.read(chunk)
        if (count < 0) return bytes.toByteArray()
        if (bytes.size() + count > MAX_ENCODED) throw IOException("it has more than $MAX_ENCODED bytes")
        bytes.write(chunk, 0, count)
    }
}

private fun tooLong() = ImageUnusable("a picture's file has at most $MAX_ENCODED bytes")

private fun damaged(error: Exception) =
    ImageUnusable("the picture is damaged, or of no format that is read here: ${oneLineOf(error)}")

private fun unreadable(uri: Uri, error: Exception) =
    ImageUnusable("the picture ${oneLine(uri.toString(), 120)} cannot be read: ${oneLineOf(error)}")
