package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Tiling
import kotlin.math.floor
import kotlin.math.sqrt

/**
 * Tokens: as many as the most allow in the picture's shape, a small one enlarged: Gemma 4's
 * get_aspect_ratio_preserving_size (`pocketvlm.images.rules.gemma4`).
 */
internal fun gemma4(size: Size, tiling: Tiling): Grid {
    val (width, height) = size
    val most = mostTokens(tiling).toInt()
    val factor = sqrt(checkNotNull(tiling.maxPixels).toDouble() / (height.toLong() * width).toDouble())
    val down = floor(factor * height / tiling.tileSize).toInt()
    val across = floor(factor * width / tiling.tileSize).toInt()
    return when {
        down == 0 -> Grid(minOf(width / height, most), 1)
        across == 0 -> Grid(1, minOf(height / width, most))
        else -> Grid(across, down)
    }
}

internal fun gemma4Problem(tiling: Tiling): String? {
    val token = tiling.tileSize.toLong() * tiling.tileSize
    return boundsProblem(tiling) ?: when {
        checkNotNull(tiling.maxPixels) % token != 0L -> "max_pixels: ${tiling.maxPixels} are no whole tokens of $token"
        tiling.thumbnail != "none" -> "thumbnail: gemma4 has none"
        else -> null
    }
}
