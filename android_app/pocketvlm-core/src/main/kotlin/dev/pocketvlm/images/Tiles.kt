package dev.pocketvlm.images

import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Preprocessing
import dev.pocketvlm.checkSize
import java.nio.FloatBuffer

/** Of the largest image or canvas: pixels, and pixels a side. */
internal const val MAX_PIXELS: Long = 64L shl 20
internal const val MAX_SIDE: Int = 16384

/**
 * [pixels]: bytes [count, tile, tile, 3] in sequence order; [thumbnail] is its place, or null. [seen]: of native resolution,
 * the grids whose tiles see each other.
 */
internal class Tiles(val grid: Grid, val thumbnail: Int?, val seen: List<Grid>, val count: Int, val pixels: ByteArray)

/**
 * Straight alpha laid over white, as Pillow blends. [rgba]: bytes [height, width, 4].
 *
 * @throws ImageUnusable the size is out of bounds
 */
internal fun flatten(rgba: ByteArray, width: Int, height: Int): Rgb {
    checkSize(width, height)
    if (rgba.size != width * height * 4) throw ImageUnusable("an image of $width x $height has 4 bytes a pixel, not ${rgba.size}")
    val pixels = ByteArray(width * height * 3)
    var out = 0
    for (at in rgba.indices step 4) {
        val alpha = rgba[at + 3].toInt() and 255
        for (channel in 0 until 3) {
            // a division by 255, rounded, in integers
            val sum = 255 * (255 - alpha) + (rgba[at + channel].toInt() and 255) * alpha + 128
            pixels[out++] = (((sum ushr 8) + sum) ushr 8).toByte()
        }
    }
    return Rgb(width, height, pixels)
}

/**
 * The tiles of a picture, and its thumbnail.
 *
 * @throws ImageUnusable it would be resized to more than [MAX_PIXELS], of which a crop is taken, or laid in a square of more
 */
internal fun cutTiles(image: Rgb, preprocessing: Preprocessing): Tiles {
    val plan = planOf(Size(image.width, image.height), preprocessing.tiling)
    val tile = preprocessing.tiling.tileSize
    val small = inPixels(plan.thumbnailPart, tile)
    if ((plan.resizes + small).any { it.width.toLong() * it.height > MAX_PIXELS }) {
        throw ImageUnusable("the image is too narrow for a crop of it")
    }
    if (plan.square.toLong() * plan.square > MAX_PIXELS) throw ImageUnusable("the image is too narrow for a square around it")
    val whole = if (plan.square > 0) squared(image, plan.square, preprocessing) else image
    val steps = plan.resizes.runningFold(whole) { shown, size -> resize(shown, size, preprocessing.resizeFilter) }
    val canvas = canvasOf(steps.last(), plan, preprocessing)
    val thumbnail = plan.thumbnail?.let { resize(steps[plan.thumbnailOf], small, preprocessing.resizeFilter) }
    val parts = plan.parts
    val cutter = Cutter(tile, plan.tiles)
    for ((place, part) in parts.withIndex()) {
        if (thumbnail != null && place == plan.thumbnail) {
            cutter.cut(thumbnail, 0, 0, part)
        } else {
            val index = place - if (plan.thumbnail == 0) 1 else 0
            val column = index % plan.grid.across * part.across
            cutter.cut(canvas, column * tile, index / plan.grid.across * part.down * tile, part)
        }
    }
    val seen = if (preprocessing.tiling.isInParts) parts else listOf(plan.grid)
    return Tiles(plan.grid, plan.thumbnail, seen, plan.tiles, cutter.pixels)
}

/** Puts tiles one behind the other. */
private class Cutter(private val tile: Int, count: Int) {
    val pixels = ByteArray(Math.multiplyExact(Math.multiplyExact(count, tile * tile), 3))
    private var at = 0

    /** Those of a rectangle of [grid] tiles whose corner is at ([left], [top]), row by row. */
    fun cut(from: Rgb, left: Int, top: Int, grid: Grid) {
        for (index in 0 until grid.tiles.toInt()) for (y in 0 until tile) {
            val row = top + index / grid.across * tile + y
            val first = (row * from.width + left + index % grid.across * tile) * 3
            System.arraycopy(from.pixels, first, pixels, at, tile * 3)
            at += tile * 3
        }
    }
}

/** A resized image on the canvas of its grid. */
private fun canvasOf(image: Rgb, plan: PicturePlan, preprocessing: Preprocessing): Rgb {
    val size = inPixels(plan.canvas, preprocessing.tiling.tileSize)
    return laidOn(size, image, plan.left, plan.top, preprocessing)
}

/** An image in the middle of a square. */
private fun squared(image: Rgb, side: Int, preprocessing: Preprocessing): Rgb =
    laidOn(Size(side, side), image, (side - image.width) / 2, (side - image.height) / 2, preprocessing)

/** An image with its corner at ([left], [top]) of a canvas of the padding's colour, without what lies outside. */
private fun laidOn(size: Size, image: Rgb, left: Int, top: Int, preprocessing: Preprocessing): Rgb {
    val (width, height) = size
    if (image.width == width && image.height == height) return image
    val color = ByteArray(3) { checkNotNull(preprocessing.padColor[it]).toByte() }
    val canvas = Rgb(width, height, ByteArray(width * height * 3) { color[it % 3] })
    val first = maxOf(left, 0)
    val end = minOf(left + image.width, width)
    for (y in maxOf(top, 0) until minOf(top + image.height, height)) {
        val from = ((y - top) * image.width + first - left) * 3
        System.arraycopy(image.pixels, from, canvas.pixels, (y * width + first) * 3, (end - first) * 3)
    }
    return canvas
}

/** (byte * rescale - mean) / std in float32: tiles [first, first + count) as [count, 3, tile, tile] into [output]. */
internal fun normalize(tiles: Tiles, first: Int, count: Int, preprocessing: Preprocessing, output: FloatBuffer) {
    val size = preprocessing.tiling.tileSize * preprocessing.tiling.tileSize
    val values = Array(3) { channel ->
        FloatArray(256) { byte ->
            (byte.toFloat() * preprocessing.rescale.toFloat() - preprocessing.mean[channel].toFloat()) /
                preprocessing.std[channel].toFloat()
        }
    }
    val plane = FloatArray(size)
    for (tile in first until first + count) for (channel in 0 until 3) {
        var at = tile * size * 3 + channel
        for (index in 0 until size) {
            plane[index] = values[channel][tiles.pixels[at].toInt() and 255]
            at += 3
        }
        output.put(plane)
    }
}
