package dev.pocketvlm.android

import android.graphics.BitmapFactory
import android.graphics.ColorSpace
import android.media.ExifInterface
import dev.pocketvlm.Image
import dev.pocketvlm.images.Rgb
import java.io.ByteArrayInputStream
import java.io.IOException

private val PNG = byteArrayOf(0x89.toByte(), 'P'.code.toByte(), 'N'.code.toByte(), 'G'.code.toByte())

/** ImageDecoder turns other formats, and no PNG. */
internal fun isTurnedPng(bytes: ByteArray): Boolean =
    bytes.size > PNG.size && PNG.indices.all { bytes[it] == PNG[it] } && orientationOf(bytes) in FLIP_HORIZONTAL..ROTATE_270

/**
 * By BitmapFactory, which never turns anything: before Android 9, which has no ImageDecoder. What a cut file lacks is white
 * or grey: nothing says that it was cut.
 */
internal fun factoryDecoded(bytes: ByteArray, mostPixels: Int): Image {
    val lying = unusableIfDamaged {
        val bounds = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeByteArray(bytes, 0, bytes.size, bounds)
        if (bounds.outWidth < 1 || bounds.outHeight < 1) throw IOException("its header says no size")
        val options = BitmapFactory.Options().apply {
            inSampleSize = sampleOf(bounds.outWidth, bounds.outHeight, bounds.outMimeType, mostPixels)
            inPreferredColorSpace = ColorSpace.get(ColorSpace.Named.SRGB)
            inPremultiplied = false // decoders round differently where they multiply
        }
        BitmapFactory.decodeByteArray(bytes, 0, bytes.size, options) ?: throw IOException("it does not decode")
    }
    val orientation = orientationOf(bytes)
    if (orientation !in FLIP_HORIZONTAL..ROTATE_270) return lying
    return withMemoryFor(lying.width, lying.height) { Image(upright(checkNotNull(lying.pixels), orientation)) }
}

/** A damaged EXIF block does not make the picture unreadable. */
private fun orientationOf(bytes: ByteArray): Int = try {
    ExifInterface(ByteArrayInputStream(bytes)).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
} catch (error: IOException) {
    ExifInterface.ORIENTATION_NORMAL
} catch (error: RuntimeException) {
    ExifInterface.ORIENTATION_NORMAL
}

/** [orientation]: one of EXIF's from 2 to 8. */
private fun upright(lying: Rgb, orientation: Int): Rgb {
    val isTurned = orientation >= TRANSPOSE
    val width = if (isTurned) lying.height else lying.width
    val height = if (isTurned) lying.width else lying.height
    val fromRight = orientation in setOf(FLIP_HORIZONTAL, ROTATE_180, TRANSVERSE, ROTATE_270)
    val fromBelow = orientation in setOf(ROTATE_180, FLIP_VERTICAL, ROTATE_90, TRANSVERSE)
    val pixels = ByteArray(lying.pixels.size)
    var out = 0
    for (y in 0 until height) for (x in 0 until width) {
        val across = if (isTurned) y else x
        val down = if (isTurned) x else y
        val row = if (fromBelow) lying.height - 1 - down else down
        val column = if (fromRight) lying.width - 1 - across else across
        val from = (row * lying.width + column) * 3
        for (channel in 0 until 3) pixels[out++] = lying.pixels[from + channel]
    }
    return Rgb(width, height, pixels)
}

private const val FLIP_HORIZONTAL = ExifInterface.ORIENTATION_FLIP_HORIZONTAL
private const val ROTATE_180 = ExifInterface.ORIENTATION_ROTATE_180
private const val FLIP_VERTICAL = ExifInterface.ORIENTATION_FLIP_VERTICAL
private const val TRANSPOSE = ExifInterface.ORIENTATION_TRANSPOSE
private const val ROTATE_90 = ExifInterface.ORIENTATION_ROTATE_90
private const val TRANSVERSE = ExifInterface.ORIENTATION_TRANSVERSE
private const val ROTATE_270 = ExifInterface.ORIENTATION_ROTATE_270
