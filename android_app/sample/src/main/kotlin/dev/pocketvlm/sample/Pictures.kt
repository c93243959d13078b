package dev.pocketvlm.sample

import android.content.Context
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ImageDecoder
import android.graphics.Matrix
import android.media.ExifInterface
import android.net.Uri
import android.os.Build
import dev.pocketvlm.Image
import dev.pocketvlm.ImageTiling
import dev.pocketvlm.android.encoded
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream
import java.nio.ByteBuffer

/** Longest side of a picture on the screen, in pixels: 2 MB of memory each. The model gets the whole picture. */
private const val SHOWN_SIDE = 768

/** Of a picture's file, as the library takes them. */
private const val MOST_BYTES = 64 shl 20

/**
 * A picture of [width] x [height] pixels as the screen shows it.
 *
 * @property bitmap small, null where it is not kept any more
 */
internal class SeenPicture(val width: Int, val height: Int, val bitmap: Bitmap?, val tiling: ImageTiling?) {
    fun describe(context: Context): String = context.getString(R.string.picture, width, height)

    fun describeTiles(context: Context): String = tiling?.let {
        val text = if (it.hasThumbnail) R.string.tiles_and_overview else R.string.tiles
        context.getString(text, it.columns, it.rows, it.tileSize) + ", " +
            context.resources.getQuantityString(R.plurals.tokens, it.tokens, it.tokens)
    }.orEmpty()
}

/** A picture for the model, and what the screen shows of it. */
internal class Picture(val image: Image, val shown: Bitmap)

/** Reads what another app gives. Errors are those of the library and [IOException]. */
internal suspend fun loadPicture(context: Context, uri: Uri): Picture = withContext(Dispatchers.IO) {
    val stream = context.contentResolver.openInputStream(uri) ?: throw FileNotFoundException("the picture cannot be read")
    val bytes = stream.use(::readBounded)
    val image = Image.encoded(bytes) // first: it refuses what is too large or no picture
    Picture(image, if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.P) decode(bytes) else decodeOld(bytes))
}

private fun readBounded(stream: InputStream): ByteArray {
    val bytes = ByteArrayOutputStream()
    val chunk = ByteArray(1 shl 16)
    while (true) {
        val count = stream.read(chunk)
        if (count < 0) return bytes.toByteArray()
        if (bytes.size() + count > MOST_BYTES) throw IOException("it has more than $MOST_BYTES bytes")
        bytes.write(chunk, 0, count)
    }
}

private fun decode(bytes: ByteArray): Bitmap =
    ImageDecoder.decodeBitmap(ImageDecoder.createSource(ByteBuffer.wrap(bytes))) { decoder, info, _ ->
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
        val longest = maxOf(info.size.width, info.size.height)
        if (longest > SHOWN_SIDE) {
            val short = { side: Int -> maxOf(1, side * SHOWN_SIDE / longest) }
            decoder.setTargetSize(short(info.size.width), short(info.size.height))
        }
    }

/** Android 8.1 has no ImageDecoder, which turns pictures upright. */
private fun decodeOld(bytes: ByteArray): Bitmap {
    val options = BitmapFactory.Options().apply { inJustDecodeBounds = true }
    BitmapFactory.decodeByteArray(bytes, 0, bytes.size, options)
    options.inJustDecodeBounds = false
    options.inSampleSize = maxOf(1, maxOf(options.outWidth, options.outHeight) / SHOWN_SIDE)
    val bitmap = BitmapFactory.decodeByteArray(bytes, 0, bytes.size, options) ?: throw IOException("it is no picture")
    val turned = when (ExifInterface(ByteArrayInputStream(bytes)).getAttributeInt(ExifInterface.TAG_ORIENTATION, 1)) {
        ExifInterface.ORIENTATION_ROTATE_90 -> 90f
        ExifInterface.ORIENTATION_ROTATE_180 -> 180f
        ExifInterface.ORIENTATION_ROTATE_270 -> 270f
        else -> return bitmap
    }
    return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, Matrix().apply { setRotate(turned) }, true)
}
