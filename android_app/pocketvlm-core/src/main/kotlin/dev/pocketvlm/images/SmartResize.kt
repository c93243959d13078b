package dev.pocketvlm.images

import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Tiling
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt

/** The longer side by the shorter one, at most. */
internal const val MOST_ASPECT = 200

/**
 * Tokens: whole ones a side and no fewer than [fewest] of them, halves to the even multiple, within the bounds of pixels
 * (transformers' smart_resize).
 *
 * @throws ImageUnusable the picture is too narrow
 */
internal fun wholePicture(size: Size, tiling: Tiling, fewest: Int): Grid {
    checkAspect(size)
    val (width, height) = size
    val tile = tiling.tileSize.toDouble()
    val least = checkNotNull(tiling.minPixels)
    val most = checkNotNull(tiling.maxPixels)
    var down = max(fewest.toDouble(), Math.rint(height / tile))
    var across = max(fewest.toDouble(), Math.rint(width / tile))
    val pixels = down.toLong() * across.toLong() * tiling.tileSize * tiling.tileSize
    val given = (height.toLong() * width).toDouble()
    if (pixels > most) {
        val share = sqrt(given / most.toDouble())
        down = max(1.0, floor(height / share / tile))
        across = max(1.0, floor(width / share / tile))
    } else if (pixels < least) {
        val share = sqrt(least.toDouble() / given)
        down = ceil(height * share / tile)
        across = ceil(width * share / tile)
    }
    return Grid(across.toInt(), down.toInt())
}

/** @throws ImageUnusable the picture is too narrow */
internal fun checkAspect(size: Size) {
    val (width, height) = size
    if (max(width, height).toDouble() / min(width, height) > MOST_ASPECT) {
        val why = "is too narrow: one side is at most $MOST_ASPECT times the other"
        throw ImageUnusable("a picture of $width x $height pixels $why")
    }
}

/** Of so many tiles, pixels. */
internal fun inPixels(tiles: Grid, tile: Int): Size =
    Size(Math.multiplyExact(tiles.across, tile), Math.multiplyExact(tiles.down, tile))

internal fun smartResizeProblem(tiling: Tiling): String? =
    boundsProblem(tiling) ?: "thumbnail: smart-resize has none".takeIf { tiling.thumbnail != "none" }

/** Whether there are bounds, and a token has room between them. */
internal fun boundsProblem(tiling: Tiling): String? {
    val least = tiling.minPixels
    val most = tiling.maxPixels
    val token = tiling.tileSize.toLong() * tiling.tileSize
    return when {
        least == null || most == null -> "min_pixels and max_pixels: ${tiling.strategy} needs both"
        least !in 1..most -> "min_pixels: $least is not from 1 to max_pixels, $most"
        most < token -> "max_pixels: $most are less than a token's, $token"
        else -> null
    }
}

/** Tokens of any picture, or of any part of one, at most. */
internal fun mostTokens(tiling: Tiling): Long {
    if (tiling.strategy == "minicpmv") return mostTokensOfSlice(tiling)
    val token = (tiling.tileSize.toLong() * tiling.tileSize).toDouble()
    if (tiling.strategy == "gemma4") return (checkNotNull(tiling.maxPixels) / token).toLong()
    val least = checkNotNull(tiling.minPixels) / token
    val most = checkNotNull(tiling.maxPixels) / token
    val aspect = sqrt(MOST_ASPECT.toDouble())
    val roundedUp = least + sqrt(least) * (aspect + 1 / aspect) + 1
    val part = tiling.part?.toLong() ?: 0
    return maxOf(maxOf(most.toLong(), part * part), ceil(sqrt(most * MOST_ASPECT)).toLong(), ceil(roundedUp).toLong())
}

/** Of a picture of at most so many tiles, whatever its shape: squares of [side] x [side]. */
internal fun mostWindows(tokens: Int, side: Int): Int = (1..tokens).maxOf { across ->
    (across + side - 1) / side * ((tokens / across + side - 1) / side)
}
